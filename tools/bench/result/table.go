package result

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Number formats v with that many decimals and commas between thousands.
func Number(v float64, decimals int) string {
	text := strconv.FormatFloat(v, 'f', decimals, 64)
	digits, rest, _ := strings.Cut(text, ".")
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	if rest != "" {
		digits += "." + rest
	}
	return sign + digits
}

// Table returns the scenario's medians as cells, after a row of headings. A figure that was not measured is "".
func (s *Scenario) Table() [][]string {
	columns := s.Shown()
	head := []string{"", "case"}
	for _, c := range columns {
		head = append(head, c.Title)
	}
	cells := [][]string{head}
	for _, r := range s.Rows {
		line := []string{r.Subject, r.Case}
		for _, c := range columns {
			text := ""
			if v, ok := r.Median[c.Name]; ok {
				text = Number(v, c.Decimals)
			}
			line = append(line, text)
		}
		cells = append(cells, line)
	}
	return cells
}

// Print writes the scenario for a terminal: the table, the ratios, the goals.
func (s *Scenario) Print(w io.Writer) error {
	cells := s.Table()
	widths := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, text := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(text))
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", s.Name, s.Title)
	for _, line := range cells {
		for i, text := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text))
			if i < 2 {
				b.WriteString("  " + text + pad)
			} else {
				b.WriteString("  " + pad + text)
			}
		}
		b.WriteByte('\n')
	}
	for _, r := range s.Ratios {
		fmt.Fprintf(&b, "  ratio: %s: %.2f\n", r.Text, r.Value)
	}
	for _, g := range s.Goals {
		fmt.Fprintf(&b, "  goal: %s: %s: %s\n", g.Text, Number(g.Found, 2), g.Verdict())
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}
