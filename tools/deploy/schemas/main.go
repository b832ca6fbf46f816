// Command schemas writes the JSON schemas with which kubeconform checks manifests, without the internet. It takes those
// of Kubernetes from the wheel of the PyPI package kubernetes-validate, and those of KEDA and the Prometheus operator
// from their custom resource definitions.
//
//	go run ./schemas -wheel kubernetes_validate-….whl -kubernetes v1.34.0 -out DIR keda.sh_scaledobjects.yaml …
package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

func main() {
	wheel := flag.String("wheel", "", "wheel of kubernetes-validate")
	version := flag.String("kubernetes", "v1.34.0", "version of Kubernetes")
	out := flag.String("out", "", "directory to write to")
	flag.Parse()
	err := fromWheel(*wheel, *version, *out)
	for _, crd := range flag.Args() {
		if err == nil {
			err = fromCRD(crd, *out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

// fromWheel copies the strict schemas of one version.
func fromWheel(wheel, version, out string) error {
	archive, err := zip.OpenReader(wheel)
	if err != nil {
		return fmt.Errorf("open the wheel: %w", err)
	}
	defer archive.Close()
	folder := "kubernetes_validate/kubernetes-json-schema/" + version + "-local-strict/"
	n := 0
	for _, f := range archive.File {
		if !strings.HasPrefix(f.Name, folder) || path.Ext(f.Name) != ".json" {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		text, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		if text, err = relative(text); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		if err := os.WriteFile(filepath.Join(out, path.Base(f.Name)), text, 0o644); err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		return fmt.Errorf("%s has no schemas in %s", wheel, folder)
	}
	return nil
}

// relative turns a schema's references to the web into references to neighbouring files.
func relative(text []byte) ([]byte, error) {
	text = bytes.ReplaceAll(text, []byte(`"/api/_definitions.json#`), []byte(`"_definitions.json#`))
	var schema map[string]any
	numbers := json.NewDecoder(bytes.NewReader(text))
	numbers.UseNumber()
	if err := numbers.Decode(&schema); err != nil {
		return nil, err
	}
	delete(schema, "$id")
	return json.Marshal(schema)
}

// fromCRD writes a strict schema for each version: unknown keys are errors.
func fromCRD(file, out string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Group    string
			Names    struct{ Kind string }
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema map[string]any `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if len(crd.Spec.Versions) == 0 {
		return fmt.Errorf("%s defines no versions", file)
	}
	for _, v := range crd.Spec.Versions {
		strict(v.Schema.OpenAPIV3Schema)
		text, err := json.Marshal(v.Schema.OpenAPIV3Schema)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		group, _, _ := strings.Cut(crd.Spec.Group, ".")
		name := strings.ToLower(crd.Spec.Names.Kind) + "-" + group + "-" + v.Name + ".json"
		if err := os.WriteFile(filepath.Join(out, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// strict forbids keys that are not among an object's properties, except in metadata, which definitions leave open.
func strict(schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	_, open := schema["additionalProperties"]
	if len(properties) > 0 && !open && schema["x-kubernetes-preserve-unknown-fields"] != true {
		schema["additionalProperties"] = false
	}
	for name, p := range properties {
		if below, ok := p.(map[string]any); ok && name != "metadata" {
			strict(below)
		}
	}
	for _, key := range []string{"items", "additionalProperties"} {
		if below, ok := schema[key].(map[string]any); ok {
			strict(below)
		}
	}
}
