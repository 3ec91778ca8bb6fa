// Records what Go's own text/template answers, so that the Python tests need no Go.
//
//	go run record.go            reads language.txt, world.json, templates/, conversations.json; writes cases.jsonl
//	go run record.go -ask       answers JSON lines {"template": …, "data": …} from stdin, for probing by hand
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"
	"text/template/parse"
)

type answer struct {
	Name         string          `json:"name,omitempty"`
	Template     string          `json:"template"`
	Conversation string          `json:"conversation,omitempty"`
	Data         json.RawMessage `json:"data,omitempty"`
	Output       string          `json:"output"`
	Error        string          `json:"error,omitempty"`
}

// The shapes that the server's templates see (wire-spec 12.2).

type templateMessage struct {
	Role, Content, Thinking string
	Images                  []ImageData
	ToolCalls               []templateToolCall
	ToolName, ToolCallID    string
}

type ImageData []byte

type templateToolCall struct {
	ID       string
	Function templateToolCallFunction
}

type templateToolCallFunction struct {
	Index     int
	Name      string
	Arguments templateArgs
}

type templateArgs map[string]any

type templateTools []templateTool

type templateTool struct {
	Type     string               `json:"type"`
	Items    any                  `json:"items,omitempty"`
	Function templateToolFunction `json:"function"`
}

type templateToolFunction struct {
	Name        string                         `json:"name"`
	Description string                         `json:"description"`
	Parameters  templateToolFunctionParameters `json:"parameters"`
}

type templateToolFunctionParameters struct {
	Type       string             `json:"type"`
	Defs       any                `json:"$defs,omitempty"`
	Items      any                `json:"items,omitempty"`
	Required   []string           `json:"required,omitempty"`
	Properties templateProperties `json:"properties"`
}

type templateProperties map[string]ToolProperty

type ToolProperty struct {
	AnyOf       []ToolProperty     `json:"anyOf,omitempty"`
	Type        PropertyType       `json:"type,omitempty"`
	Items       any                `json:"items,omitempty"`
	Description string             `json:"description,omitempty"`
	Enum        []any              `json:"enum,omitempty"`
	Properties  templateProperties `json:"properties,omitempty"`
	Required    []string           `json:"required,omitempty"`
}

type PropertyType []string

func (t *PropertyType) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*t = PropertyType{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(t))
}

func (t PropertyType) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t PropertyType) String() string {
	if len(t) == 1 {
		return t[0]
	}
	if len(t) == 0 {
		return ""
	}
	return fmt.Sprint([]string(t))
}

func (t templateArgs) String() string {
	if t == nil {
		return "{}"
	}
	return asJSON(map[string]any(t))
}

func (t templateProperties) String() string {
	if t == nil {
		return "{}"
	}
	return asJSON(map[string]ToolProperty(t))
}

func (t templateTools) String() string                  { return asJSON([]templateTool(t)) }
func (t templateTool) String() string                   { return asJSON(t) }
func (t templateToolFunction) String() string           { return asJSON(t) }
func (t templateToolFunctionParameters) String() string { return asJSON(t) }

func asJSON(value any) string {
	raw, _ := json.Marshal(value)
	return string(raw)
}

var typeScript = map[string]string{
	"string": "string", "number": "number", "integer": "number", "boolean": "boolean",
	"array": "any[]", "object": "Record<string, any>", "null": "null",
}

func typeScriptOf(p ToolProperty) string {
	var names []string
	for _, choice := range p.AnyOf {
		names = append(names, typeScriptOf(choice))
	}
	for _, name := range p.Type {
		if len(p.AnyOf) > 0 {
			break
		}
		known, ok := typeScript[name]
		if !ok {
			known = "any"
		}
		names = append(names, known)
	}
	if names == nil {
		return "any"
	}
	return strings.Join(names, " | ")
}

var functions = template.FuncMap{
	"json":          asJSON,
	"currentDate":   func(...string) string { return "2026-03-01" },
	"yesterdayDate": func(...string) string { return "2026-02-28" },
	"toTypeScriptType": func(value any) string {
		if property, ok := value.(ToolProperty); ok {
			return typeScriptOf(property)
		}
		return "any"
	},
}

func compile(text string) (*template.Template, error) {
	return template.New("").Option("missingkey=zero").Funcs(functions).Parse(text)
}

func execute(t *template.Template, data any) (output string, err error) {
	var buffer bytes.Buffer
	if err = t.Execute(&buffer, data); err != nil {
		return "", err
	}
	return buffer.String(), nil
}

// The packages the reference server keeps these types in.
var packages = strings.NewReplacer(
	"main.ToolProperty", "api.ToolProperty", "main.PropertyType", "api.PropertyType", "main.ImageData", "api.ImageData",
	"main.template", "template.template")

func (a *answer) fill(output string, err error) {
	a.Output, a.Error = packages.Replace(output), ""
	if err != nil {
		a.Error = packages.Replace(err.Error())
	}
}

func decode(raw []byte) map[string]any {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var data map[string]any
	must(decoder.Decode(&data))
	return exact(data).(map[string]any)
}

// exact keeps whole JSON numbers apart from the others, as Python's decoder does.
func exact(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			v[key] = exact(v[key])
		}
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	case json.Number:
		if !strings.ContainsAny(string(v), ".eE") {
			whole, _ := v.Int64()
			return int(whole)
		}
		float, _ := v.Float64()
		return float
	}
	return value
}

// Conversations: the assembly of wire-spec 4.3 and 12.2.

type conversation struct {
	Name     string `json:"name"`
	Messages []struct {
		Role       string `json:"role"`
		Content    string `json:"content"`
		Thinking   string `json:"thinking"`
		ToolName   string `json:"tool_name"`
		ToolCallID string `json:"tool_call_id"`
		ToolCalls  []struct {
			ID       string `json:"id"`
			Function struct {
				Index     int            `json:"index"`
				Name      string         `json:"name"`
				Arguments map[string]any `json:"arguments"`
			} `json:"function"`
		} `json:"tool_calls"`
	} `json:"messages"`
	Tools      templateTools `json:"tools"`
	Think      bool          `json:"think"`
	ThinkLevel string        `json:"think_level"`
	IsThinkSet bool          `json:"is_think_set"`
	Prompt     string        `json:"prompt"`
	Suffix     string        `json:"suffix"`
}

func (c conversation) data(more map[string]any) map[string]any {
	data := map[string]any{"Response": "", "Think": c.Think, "ThinkLevel": c.ThinkLevel, "IsThinkSet": c.IsThinkSet}
	for key, value := range more {
		data[key] = value
	}
	return data
}

func (c conversation) merged() (system string, merged []*templateMessage) {
	var systems []string
	for _, m := range c.Messages {
		if m.Role == "system" {
			systems = append(systems, m.Content)
		}
		if last := len(merged) - 1; last >= 0 && merged[last].Role == m.Role && m.Role != "tool" {
			merged[last].Content += "\n\n" + m.Content
			continue
		}
		message := &templateMessage{
			Role: m.Role, Content: m.Content, Thinking: m.Thinking, ToolName: m.ToolName, ToolCallID: m.ToolCallID}
		for _, call := range m.ToolCalls {
			message.ToolCalls = append(message.ToolCalls, templateToolCall{call.ID, templateToolCallFunction{
				call.Function.Index, call.Function.Name, templateArgs(call.Function.Arguments)}})
		}
		merged = append(merged, message)
	}
	return strings.Join(systems, "\n\n"), merged
}

func render(text string, c conversation) (string, error) {
	t, err := compile(text)
	if err != nil {
		return "", err
	}
	if c.Suffix != "" {
		return execute(t, c.data(map[string]any{"Prompt": c.Prompt, "Suffix": c.Suffix}))
	}
	system, messages := c.merged()
	if strings.Contains(text, ".Messages") {
		return execute(t, c.data(map[string]any{"System": system, "Messages": messages, "Tools": c.Tools}))
	}
	return renderTurns(t, text, c, messages)
}

func renderTurns(t *template.Template, text string, c conversation, messages []*templateMessage) (string, error) {
	if !strings.Contains(text, ".Response") {
		t = template.Must(compile(text + "{{ .Response }}"))
	}
	var output strings.Builder
	turn := map[string]any{"System": "", "Prompt": "", "Response": ""}
	flush := func(t *template.Template) error {
		part, err := execute(t, c.data(turn))
		output.WriteString(part)
		turn = map[string]any{"System": "", "Prompt": "", "Response": ""}
		return err
	}
	for _, m := range messages {
		if (m.Role == "user" || m.Role == "system" && turn["Prompt"] == "") && turn["Response"] != "" ||
			m.Role == "system" && turn["Prompt"] != "" {
			if err := flush(t); err != nil {
				return "", err
			}
		}
		switch m.Role {
		case "system":
			turn["System"] = m.Content
		case "user":
			turn["Prompt"] = m.Content
		case "assistant":
			turn["Response"] = m.Content
		}
	}
	cut := template.Must(t.Clone())
	keepUntilResponse(cut.Root)
	err := flush(cut)
	return output.String(), err
}

// keepUntilResponse drops the nodes behind the first action that prints .Response; true when it met one.
func keepUntilResponse(list *parse.ListNode) bool {
	if list == nil {
		return false
	}
	for i, node := range list.Nodes {
		found := false
		switch n := node.(type) {
		case *parse.ActionNode:
			found = strings.Contains(n.String(), ".Response")
		case *parse.IfNode:
			found = keepUntilResponse(n.List) || keepUntilResponse(n.ElseList)
		}
		if found {
			list.Nodes = list.Nodes[:i+1]
			return true
		}
	}
	return false
}

func languageCases() (cases []answer) {
	world, err := os.ReadFile("world.json")
	must(err)
	source, err := os.ReadFile("language.txt")
	must(err)
	section, number := "", 0
	for _, line := range strings.Split(string(source), "\n") {
		if title, isTitle := strings.CutPrefix(line, "## "); isTitle {
			section, number = title, 0
		} else if line != "" {
			number++
			a := answer{Name: fmt.Sprintf("%s %d", section, number), Template: strings.ReplaceAll(line, "⏎", "\n")}
			a.ask(decode(world))
			cases = append(cases, a)
		}
	}
	return cases
}

func (a *answer) ask(data any) {
	t, err := compile(a.Template)
	if err != nil {
		a.fill("", err)
		return
	}
	a.fill(execute(t, data))
}

func familyCases() (cases []answer) {
	raw, err := os.ReadFile("conversations.json")
	must(err)
	var conversations []conversation
	must(json.Unmarshal(raw, &conversations))
	files, err := filepath.Glob("templates/*.gotmpl")
	must(err)
	sort.Strings(files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(err)
		for _, c := range conversations {
			if (c.Suffix != "") != bytes.Contains(text, []byte(".Suffix")) {
				continue
			}
			name := strings.TrimSuffix(filepath.Base(file), ".gotmpl")
			a := answer{Name: name + " " + c.Name, Template: string(text), Conversation: c.Name}
			a.fill(render(string(text), c))
			a.Template = name
			cases = append(cases, a)
		}
	}
	return cases
}

func write(target *os.File, cases ...answer) {
	encoder := json.NewEncoder(target)
	encoder.SetEscapeHTML(false)
	for _, a := range cases {
		must(encoder.Encode(a))
	}
}

func answerStdin() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<26)
	for lines.Scan() {
		var a answer
		must(json.Unmarshal(lines.Bytes(), &a))
		a.ask(decode(a.Data))
		a.Data = nil
		write(os.Stdout, a)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	ask := flag.Bool("ask", false, "answer questions from stdin")
	flag.Parse()
	if *ask {
		answerStdin()
		return
	}
	target, err := os.Create("cases.jsonl")
	must(err)
	write(target, languageCases()...)
	write(target, familyCases()...)
	must(target.Close())
}
