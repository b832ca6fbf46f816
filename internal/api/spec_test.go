package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"github.com/smshooks/smshooks/internal/event"
	"github.com/smshooks/smshooks/internal/topics"
)

// loadSpec reads the specification once; tests that check replies against it share it. Customers accept fields that
// they do not know. The tests do not, so every object is closed.
var loadSpec = sync.OnceValues(func() (validator.Validator, []string) {
	var text []byte
	var closed map[string]any
	err := yaml.Unmarshal(specification, &closed)
	if err == nil {
		for _, s := range schemasOf(closed) {
			if s["properties"] != nil {
				s["additionalProperties"] = false
			}
		}
		text, err = yaml.Marshal(closed)
	}
	if err != nil {
		return nil, []string{err.Error()}
	}
	document, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, []string{err.Error()}
	}
	v, errs := validator.NewValidator(document)
	var problems []string
	for _, err := range errs {
		problems = append(problems, err.Error())
	}
	return v, problems
})

// schemasOf returns the named schemas.
func schemasOf(document map[string]any) map[string]map[string]any {
	all := map[string]map[string]any{}
	for name, s := range follow(document, "components/schemas").(map[string]any) {
		all[name] = s.(map[string]any)
	}
	return all
}

// TestSpecification checks that the document is valid OpenAPI 3.0, and that all references in it resolve.
func TestSpecification(t *testing.T) {
	v, problems := loadSpec()
	for _, p := range problems {
		t.Error(p)
	}
	if t.Failed() {
		return
	}
	if ok, errs := v.ValidateDocument(); !ok {
		for _, err := range errs {
			t.Errorf("%s: %s", err.Message, err.Reason)
			for _, e := range err.SchemaValidationErrors {
				t.Errorf("  %s: %s", e.FieldPath, e.Reason)
			}
		}
	}
	document := readYAML(t, specification)
	lintOperations(t, document)
	lintSchemas(t, document)
	for path := range Handler(New(Parts{Log: zap.NewNop()}), Options{}).(*handler).routes {
		if document["paths"].(map[string]any)[path] == nil {
			t.Errorf("%s is served but not described", path)
		}
	}
}

// lintOperations checks that each operation has a unique id, a summary, known tags, and the replies common to all.
func lintOperations(t *testing.T, document map[string]any) {
	ids, tags := map[any]bool{}, map[any]bool{}
	for _, tag := range document["tags"].([]any) {
		tags[tag.(map[string]any)["name"]] = true
	}
	for path, item := range document["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			o := op.(map[string]any)
			if id := o["operationId"]; id == nil || ids[id] {
				t.Errorf("%s %s: operationId %v is missing or a duplicate", method, path, id)
			}
			ids[o["operationId"]] = true
			if o["summary"] == nil || o["description"] == nil {
				t.Errorf("%s %s: no summary or description", method, path)
			}
			for _, tag := range o["tags"].([]any) {
				if !tags[tag] {
					t.Errorf("%s %s: tag %v is unknown", method, path, tag)
				}
			}
			lintBody(t, o, method+" "+path)
			needed := []string{"200", "405"}
			if strings.HasPrefix(path, "/v1/") {
				needed = append(needed, "400", "401", "429", "503")
			}
			for _, status := range needed {
				if o["responses"].(map[string]any)[status] == nil {
					t.Errorf("%s %s: reply %s is not described", method, path, status)
				}
			}
		}
	}
}

// lintBody checks that a request body is JSON, a form or a multipart form, and that JSON is first: generators make
// clients for the first one. The contents are read as text because a map has no order.
func lintBody(t *testing.T, operation map[string]any, what string) {
	t.Helper()
	body, ok := operation["requestBody"].(map[string]any)
	if !ok {
		return
	}
	for _, contentType := range []string{"application/json", "application/x-www-form-urlencoded", "multipart/form-data"} {
		schema, _ := follow(body["content"].(map[string]any)[contentType], "schema").(map[string]any)
		if schema["$ref"] == nil {
			t.Errorf("%s: the body as %s has no named schema", what, contentType)
		}
	}
	_, text, _ := strings.Cut(string(specification), "operationId: "+operation["operationId"].(string)+"\n")
	_, text, _ = strings.Cut(text, "requestBody:")
	_, text, _ = strings.Cut(text, "content:\n")
	if first, _, _ := strings.Cut(strings.TrimSpace(text), ":"); first != "application/json" {
		t.Errorf("%s: %s is the first content of the body, want application/json", what, first)
	}
}

// lintSchemas checks that generators can use the schemas: flat, each with a title and one type, each value with an
// example, and no name that a response has, too.
func lintSchemas(t *testing.T, document map[string]any) {
	t.Helper()
	lintTypes(t, document, "")
	values := map[string]string{} // clients for Go have a constant for each value of a named schema
	for name, schema := range schemasOf(document) {
		choices, _ := schema["enum"].([]any)
		for _, choice := range choices {
			value := strings.ToLower(choice.(string))
			if other := values[value]; other != "" {
				t.Errorf("schemas %s and %s: both have the value %s", name, other, value)
			}
			values[value] = name
		}
		if schema["title"] == nil {
			t.Errorf("schema %s: no title", name)
		}
		if follow(document, "components/responses/"+name) != nil {
			t.Errorf("schema %s: a response has this name, too", name)
		}
		properties, _ := schema["properties"].(map[string]any)
		if properties == nil && schema["example"] == nil {
			t.Errorf("schema %s: no example", name)
		}
		for field, p := range properties {
			property := p.(map[string]any)
			reference := property["$ref"] != nil || follow(property, "items/$ref") != nil
			if property["properties"] != nil || !reference && property["example"] == nil {
				t.Errorf("schema %s: %s has no example, or fields of its own", name, field)
			}
		}
	}
}

// lintTypes rejects what some generators cannot read: choices between schemas, and lists of types.
func lintTypes(t *testing.T, at any, path string) {
	t.Helper()
	object, _ := at.(map[string]any)
	for name, child := range object {
		if name == "oneOf" || name == "anyOf" || name == "allOf" || name == "const" {
			t.Errorf("%s: %s", path, name)
		}
		if list, ok := child.([]any); ok && name == "type" {
			t.Errorf("%s: type %v", path, list)
		}
		lintTypes(t, child, path+"/"+name)
	}
}

func readYAML(t *testing.T, text []byte) map[string]any {
	t.Helper()
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	lintReferences(t, document, document)
	return document
}

// lintReferences checks that every $ref resolves.
func lintReferences(t *testing.T, root, at any) {
	switch v := at.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			lintReference(t, root, ref)
		}
		for _, child := range v {
			lintReferences(t, root, child)
		}
	case []any:
		for _, child := range v {
			lintReferences(t, root, child)
		}
	}
}

func lintReference(t *testing.T, root any, ref string) {
	path, ok := strings.CutPrefix(ref, "#/")
	if !ok {
		t.Errorf("$ref %s: points outside the document", ref)
		return
	}
	if follow(root, path) == nil {
		t.Errorf("$ref %s: points to nothing", ref)
	}
}

// follow returns the value at a path of names, or nil if there is none.
func follow(at any, path string) any {
	for name := range strings.SplitSeq(path, "/") {
		object, _ := at.(map[string]any)
		at = object[strings.NewReplacer("~1", "/", "~0", "~").Replace(name)]
	}
	return at
}

// checkReply checks a reply against the specification.
func checkReply(t *testing.T, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Header().Get("Content-Type") != "application/json" {
		if r.URL.Path != "/openapi.yaml" && !strings.HasPrefix(r.URL.Path, PagePath) {
			t.Errorf("%s %s: Content-Type %q", r.Method, r.URL.Path, w.Header().Get("Content-Type"))
		}
		return
	}
	if w.Code == http.StatusNotFound && !strings.Contains(w.Body.String(), `"id: `) { // of a path that is not in the document
		want(t, w, 404, `{"success":false,"data":[],"errors":["path: not found"]}`)
		return
	}
	v, problems := loadSpec()
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	asked := r
	if w.Code == http.StatusMethodNotAllowed || r.Method == http.MethodHead { // described with the allowed methods
		method, _, _ := strings.Cut(w.Header().Get("Allow")+",", ",")
		if method == "" {
			method = http.MethodGet
		}
		asked = httptest.NewRequest(method, r.URL.Path, nil)
	}
	reply := w.Result()
	body, _ := io.ReadAll(reply.Body)
	reply.Body = io.NopCloser(strings.NewReader(string(body)))
	if ok, errs := v.ValidateHttpResponse(asked, reply); !ok {
		for _, err := range errs {
			t.Errorf("%s %s: %d %s\ndoes not match the specification: %s: %s", r.Method, r.URL.Path, w.Code, body, err.Message, err.Reason)
			for _, e := range err.SchemaValidationErrors {
				t.Errorf("  %s: %s", e.FieldPath, e.Reason)
			}
		}
	}
}

// TestCheckReply checks that checkReply can fail.
func TestCheckReply(t *testing.T) {
	v, problems := loadSpec()
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, body := range []string{
		`{"success":true,"data":{"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":"u:p"}}`,
		`{"success":true,"data":{"dlr_url":null,"click_url":null,"inbound_url":null,"auth":true}}`,
		`{"success":true,"data":{"dlr_url":null,"click_url":null,"inbound_url":null,"revoke_click_url":null,"auth":true,` +
			`"more":1}}`,
		`{"success":false,"data":[],"errors":["x: y"]}`,
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.WriteString(body)
		if ok, _ := v.ValidateHttpResponse(httptest.NewRequest("GET", "/v1/user/get-webhook", nil), w.Result()); ok {
			t.Errorf("%s is accepted", body)
		}
	}
}

// TestAsyncAPI lints docs/asyncapi.yaml, and compares it with the topics and headers of the service.
func TestAsyncAPI(t *testing.T) {
	text, err := os.ReadFile("../../docs/asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	document := readYAML(t, text)
	if v, _ := document["asyncapi"].(string); !strings.HasPrefix(v, "3.") {
		t.Errorf("asyncapi %q, want 3", v)
	}
	info, _ := document["info"].(map[string]any)
	if info["title"] == nil || info["version"] == nil {
		t.Error("info: no title or version")
	}
	described := map[string]bool{}
	for name, c := range document["channels"].(map[string]any) {
		channel := c.(map[string]any)
		address, _ := channel["address"].(string)
		messages, _ := channel["messages"].(map[string]any)
		if address == "" || channel["description"] == nil || len(messages) == 0 {
			t.Errorf("channel %s: no address, description or messages", name)
		}
		for _, topic := range addresses(t, document, name, address) {
			described[topic] = true
		}
	}
	for name, o := range document["operations"].(map[string]any) {
		operation := o.(map[string]any)
		if action := operation["action"]; action != "send" && action != "receive" {
			t.Errorf("operation %s: action %v", name, action)
		}
		if operation["channel"] == nil || operation["summary"] == nil {
			t.Errorf("operation %s: no channel or summary", name)
		}
	}
	plan := topics.New(topics.Settings{
		DLR: "sms-dlr", Click: "sms-click", Inbound: "sms-inbound", Revocation: "click-revocation",
		Schedule: []time.Duration{6 * time.Hour, 6 * time.Hour}, Tiers: []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute},
		Window: 24 * time.Hour,
	})
	for _, topic := range append(plan.Consumed(), "webhook-config", "webhook-keys", "webhook-dead-letter", "webhook-events") {
		if !described[topic] {
			t.Errorf("topic %s is not described", topic)
		}
	}
	for _, header := range []string{
		event.HeaderID, event.HeaderKind, event.HeaderTime, event.HeaderAttempts, event.HeaderDue, event.HeaderError,
		event.HeaderReason, event.HeaderReplayed, event.HeaderOrigin, event.HeaderTopicID, event.HeaderGatewayID,
	} {
		if !strings.Contains(string(text), "\n          "+header+":") {
			t.Errorf("header %s is not described", header)
		}
	}
}

var braces = regexp.MustCompile(`\{([^}]*)\}`)

// addresses expands an address with all values of its parameters.
func addresses(t *testing.T, document map[string]any, name, address string) []string {
	all := []string{address}
	for _, m := range braces.FindAllStringSubmatch(address, -1) {
		parameter, _ := follow(document, "channels/"+name+"/parameters/"+m[1]).(map[string]any)
		if ref, ok := parameter["$ref"].(string); ok {
			parameter, _ = follow(document, strings.TrimPrefix(ref, "#/")).(map[string]any)
		}
		values, _ := parameter["enum"].([]any)
		if len(values) == 0 {
			t.Errorf("channel %s: parameter %s has no values", name, m[1])
		}
		var more []string
		for _, v := range values {
			for _, a := range all {
				more = append(more, strings.ReplaceAll(a, m[0], v.(string)))
			}
		}
		all = more
	}
	slices.Sort(all)
	return all
}
