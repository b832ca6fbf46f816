package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// eventFolders are the packages that handle events.
var eventFolders = []string{"consumer", "dispatcher", "retry", "internal/revocation", "internal/firstclick", "internal/app"}

// aboutMany lists log lines in the scope of one event that are not about that event, each with a reason.
var aboutMany = map[string]string{}

// TestLinesAboutAnEventHaveItsID checks that a line logged in the scope of one event identifies it.
func TestLinesAboutAnEventHaveItsID(t *testing.T) {
	looked := 0
	for _, folder := range eventFolders {
		err := filepath.WalkDir(filepath.Join("..", "..", folder), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, path, nil, 0)
			if err != nil {
				return err
			}
			for _, line := range anonymous(file, &looked) {
				t.Errorf("%s: the line does not identify its event; add zap.String(\"id\", e.Identity()), zap.String(\"record\", e.SourcePosition())", files.Position(line))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if looked < 3 {
		t.Errorf("%d lines found: the test checks nothing", looked)
	}
}

// anonymous returns the log calls in the scope of an event e that lack "id" or "record". looked counts all calls in
// such scopes.
func anonymous(file *ast.File, looked *int) (at []token.Pos) {
	for _, declared := range file.Decls {
		function, ok := declared.(*ast.FuncDecl)
		if !ok || function.Body == nil {
			continue
		}
		scopes := eventScopes(function)
		ast.Inspect(function.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || !isLog(call) {
				return true
			}
			for _, scope := range scopes {
				if scope.Pos() <= call.Pos() && call.End() <= scope.End() {
					*looked++
					if (!says(call, "id") || !says(call, "record")) && !isAboutMany(call) {
						at = append(at, call.Pos())
					}
					break
				}
			}
			return true
		})
	}
	return at
}

// eventScopes returns the parts of a function with an event called e: the whole function if e is a parameter, and loops
// over events.
func eventScopes(function *ast.FuncDecl) (scopes []ast.Node) {
	for _, parameter := range function.Type.Params.List {
		for _, name := range parameter.Names {
			if name.Name == "e" && isEvent(parameter.Type) {
				scopes = append(scopes, function.Body)
			}
		}
	}
	ast.Inspect(function.Body, func(n ast.Node) bool {
		if loop, ok := n.(*ast.RangeStmt); ok {
			if value, ok := loop.Value.(*ast.Ident); ok && value.Name == "e" {
				scopes = append(scopes, loop.Body)
			}
		}
		return true
	})
	return scopes
}

func isEvent(parameter ast.Expr) bool {
	pointer, ok := parameter.(*ast.StarExpr)
	if !ok {
		return false
	}
	of, ok := pointer.X.(*ast.SelectorExpr)
	return ok && of.Sel.Name == "Event"
}

// isLog reports whether a call logs a line: x.log.Warn(…), x.Log.Info(…) and the like, line.Write(…) of one that was
// checked, or x.Fail(err, …) of an outage.
func isLog(call *ast.CallExpr) bool {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	switch method.Sel.Name {
	case "Fail":
		return len(call.Args) > 1
	case "Write":
		of, ok := method.X.(*ast.Ident)
		return ok && of.Name == "line"
	case "Debug", "Info", "Warn", "Error":
	default:
		return false
	}
	of, ok := method.X.(*ast.SelectorExpr)
	return ok && strings.EqualFold(of.Sel.Name, "log")
}

func isAboutMany(call *ast.CallExpr) bool {
	for message := range aboutMany {
		if says(call, message) {
			return true
		}
	}
	return false
}

// says reports whether one of the arguments contains the text.
func says(call *ast.CallExpr, text string) (found bool) {
	ast.Inspect(call, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Value == strconv.Quote(text) {
			found = true
		}
		return true
	})
	return found
}

// TestAnonymousLinesAreFound checks that the rule can fail.
func TestAnonymousLinesAreFound(t *testing.T) {
	const source = `package p
func (w *W) a(e *event.Event) { w.log.Warn("x") }
func (w *W) b(e *event.Event) { w.log.Warn("x", zap.String("id", e.Identity()), zap.String("record", e.SourcePosition())) }
func (w *W) half(e *event.Event) { w.log.Warn("x", zap.String("id", e.Identity())) }
func (w *W) c(es []*event.Event) { w.log.Warn("x"); for _, e := range es { w.Log.Info("y") } }
func (w *W) d(err error) { w.log.Warn("x") }`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	if at := anonymous(file, &looked); len(at) != 3 || looked != 4 {
		t.Errorf("%d of %d lines found, want 3 of 4", len(at), looked)
	}
}
