package sidebyside

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"
)

// The charts are plain SVG, readable on a light and on a dark page: they bring their own ground.

const (
	chartWidth = 860
	ink        = "#24292f"
	faint      = "#d0d7de"
)

// color tells the clients apart; ours is the strong one.
func color(name string) string {
	switch name {
	case steadyName:
		return "#0969da"
	case bare:
		return "#57606a"
	case byHand:
		return "#9a6700"
	case "go-retryablehttp":
		return "#cf222e"
	case "rehttp":
		return "#bf3989"
	case "failsafe-go":
		return "#8250df"
	case "azcore":
		return "#1a7f37"
	case "kiota-http-go":
		return "#0e7490"
	}
	return "#bc4c00"
}

type svg struct{ strings.Builder }

func newSVG(height int, title string) *svg {
	s := &svg{}
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" `+
		`font-family="Helvetica, Arial, sans-serif" font-size="12" role="img">`+"\n", chartWidth, height, chartWidth, height)
	fmt.Fprintf(s, "<title>%s</title>\n", html.EscapeString(title))
	fmt.Fprintf(s, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", chartWidth, height)
	s.words(16, 24, "start", 15, ink, title)
	return s
}

func (s *svg) words(x, y float64, anchor string, size int, fill, text string) {
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d" fill="%s">%s</text>`+"\n",
		x, y, anchor, size, fill, html.EscapeString(text))
}

func (s *svg) line(x1, y1, x2, y2 float64, stroke string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, stroke)
}

func (s *svg) bar(x, y, width, height float64, fill string) {
	fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, width, height, fill)
}

func (s *svg) end() string { return s.String() + "</svg>\n" }

// batchChart has a bar for each client and server: how many of the calls were lost, and how many
// 429s it took, on a logarithmic scale, since they differ by orders of magnitude.
func batchChart(list []client, results [][]batchResult) string {
	const top, left, rowHeight, gap = 66.0, 170.0, 15.0, 22.0
	group := float64(len(list))*rowHeight + gap
	height := top + group*float64(len(results)) + 30
	s := newSVG(int(height), fmt.Sprintf("The batch of %d calls: 429s (bars, logarithmic), and calls lost", batchCalls))
	most := 1.0
	for _, row := range results {
		for _, r := range row {
			most = max(most, float64(r.refused))
		}
	}
	scale := (chartWidth - left - 230) / math.Log10(most+1)
	for decade := 1.0; decade <= most; decade *= 10 {
		x := left + scale*math.Log10(decade+1)
		s.line(x, top-12, x, height-24, faint)
		s.words(x, top-16, "middle", 11, ink, short(decade))
	}
	s.line(left, top-12, left, height-24, ink)
	s.words(left, top-16, "middle", 11, ink, "0")
	for i, row := range results {
		y := top + group*float64(i)
		s.words(16, y+2, "start", 12, ink, servers[i].name)
		for j, r := range row {
			at := y + 8 + rowHeight*float64(j)
			s.words(left-8, at+10, "end", 11, ink, list[j].name)
			s.bar(left, at+1, scale*math.Log10(float64(r.refused)+1), rowHeight-4, color(list[j].name))
			told := fmt.Sprintf("%d, %d lost", r.refused, r.lost)
			if r.lost == 0 {
				told = fmt.Sprintf("%d, none lost, %v", r.refused, spell(r.took.Round(time.Minute)))
			}
			s.words(left+scale*math.Log10(float64(r.refused)+1)+6, at+10, "start", 11, ink, told)
		}
	}
	return s.end()
}

func short(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%gM", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%gk", n/1e3)
	}
	return fmt.Sprint(n)
}

// stormChart has a line for each client: how many requests a second reach the service.
func stormChart(list []client, results []stormResult) string {
	const top, left, bottom, right = 50.0, 56.0, 470.0, 700.0
	s := newSVG(510, "The storm: requests a second that reach the service")
	seconds, most := len(results[0].sent)-32, 0.0
	for _, r := range results {
		for _, n := range smooth(r.sent) {
			most = max(most, n)
		}
	}
	x := func(second float64) float64 { return left + second/float64(seconds)*(right-left) }
	y := func(n float64) float64 { return bottom - n/most*(bottom-top) }
	s.bar(x(stormBegin.Seconds()), top, x(stormEnd.Seconds())-x(stormBegin.Seconds()), bottom-top, "#f6f8fa")
	s.words((x(stormBegin.Seconds())+x(stormEnd.Seconds()))/2, top+14, "middle", 11, ink, "outage")
	for n := 0.0; n <= most; n += 200 {
		s.line(left, y(n), right, y(n), faint)
		s.words(left-6, y(n)+4, "end", 11, ink, fmt.Sprint(n))
	}
	for second := 0.0; second <= float64(seconds); second += 30 {
		s.words(x(second), bottom+16, "middle", 11, ink, fmt.Sprintf("%.0f s", second))
	}
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="5 4"/>`+"\n",
		left, y(stormCapacity), right, y(stormCapacity), ink)
	s.words(right+6, y(stormCapacity)+4, "start", 11, ink, "what it can do")
	for i, r := range results {
		var points []string
		for second, n := range smooth(r.sent)[:seconds] {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(float64(second)+0.5), y(n)))
		}
		width := 1.5
		if list[i].name == steadyName {
			width = 3
		}
		fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="%.1f"/>`+"\n",
			strings.Join(points, " "), color(list[i].name), width)
		at := top + 20 + 18*float64(i)
		s.bar(right+10, at-9, 12, 4, color(list[i].name))
		s.words(right+28, at-3, "start", 11, ink, list[i].name)
	}
	return s.end()
}

// smooth is the mean of three seconds.
func smooth(counts []int) []float64 {
	means := make([]float64, len(counts))
	for i := range counts {
		n, of := 0, 0
		for j := max(0, i-1); j <= min(len(counts)-1, i+1); j++ {
			n, of = n+counts[j], of+1
		}
		means[i] = float64(n) / float64(of)
	}
	return means
}
