package output

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/writmesh/writ/policy/reach"
)

// A drawing is an access map laid out: who in the left column, what in the right
// one, and between them a row for each access with its ports, so that no two
// labels meet. Units are those of the SVG's view box.
type drawing struct {
	Height  int
	Sources []box
	Targets []box
	Arrows  []arrow
	More    int // left out
}

type box struct {
	Y           int // of its middle
	Label, Full string
	Side        string // what arrows call it
}

type arrow struct {
	Class, Sign  string
	Label, Full  string
	In, Out      string // paths: from the source, and to the target
	Y            int    // of the middle of the label
	Words        string
	Ends         string // the sides of its source and its target
	source, dest string
}

// Box is the height of the view box: the rows, and above them their heads.
func (d drawing) Box() int { return d.Height + 30 }

// The columns, and the height of a row.
const (
	drawingWidth = 1000
	boxWidth     = 290
	pillLeft     = 390
	pillWidth    = 220
	rowHeight    = 38
	boxLetters   = 33 // that fit a box
	pillLetters  = 24
)

func newArrow(class, sign string, c reach.Change, gained bool) arrow {
	a := arrow{Class: class, Sign: sign, source: visible(who(c)), dest: visible(what(c, false))}
	ports := visible(strings.Join(doors(c), ", "))
	a.Label = cut(ports, pillLetters)
	a.Full = fmt.Sprintf("%s %s → %s", a.source, ports, a.dest)
	if w := when(c, gained); w != "" {
		a.Full += ", " + visible(w)
	}
	a.Words = newRow("", []string{a.Full}, c.People, c.Nodes).Words
	return a
}

// changeArrows are what a change gives and takes, then what is there after it: all
// of it, for who gained some of an access may stand in one row with who had it.
func changeArrows(d *reach.Difference, maps *Maps) (out []arrow) {
	type words struct{ from, to, ports string }
	key := func(c reach.Change) words {
		return words{strings.Join(c.From, ","), what(c, false), strings.Join(doors(c), ",")}
	}
	changed := map[words]bool{}
	v := divide(d)
	for _, c := range v.gained {
		out = append(out, newArrow("gained", "+", c, true))
		changed[key(c)] = true
	}
	for _, c := range v.lost {
		out = append(out, newArrow("lost", "−", c, false))
	}
	for _, c := range append(v.other(), v.ends...) {
		out = append(out, newArrow("moved", "~", c, true))
		changed[key(c)] = true
	}
	for _, c := range maps.After {
		if !changed[key(c)] {
			out = append(out, newArrow("kept", "·", c, true))
		}
	}
	return out
}

func mapArrows(changes []reach.Change, class, sign string) (out []arrow) {
	for _, c := range changes {
		out = append(out, newArrow(class, sign, c, true))
	}
	return out
}

// draw lays a map out. Sources stand in the order of their first arrow, changed
// ones first; targets are moved near the middle of their arrows.
func draw(arrows []arrow) drawing {
	d := drawing{}
	if d.More = max(0, len(arrows)-maxArrows); d.More > 0 {
		arrows = arrows[:maxArrows]
	}
	order := []string{"gained", "lost", "moved", "kept"}
	sources := map[string]int{}
	for _, a := range arrows {
		if _, ok := sources[a.source]; !ok {
			sources[a.source] = len(sources)
		}
	}
	slices.SortStableFunc(arrows, func(a, b arrow) int {
		return cmp.Or(cmp.Compare(sources[a.source], sources[b.source]), strings.Compare(a.dest, b.dest), cmp.Compare(slices.Index(order, a.Class), slices.Index(order, b.Class)))
	})
	rows := map[string][]int{} // of each source and each target
	for i, a := range arrows {
		rows["<"+a.source] = append(rows["<"+a.source], i)
		rows[">"+a.dest] = append(rows[">"+a.dest], i)
	}
	d.Height = max(1, len(arrows)) * rowHeight
	place := func(side string, names []string) ([]box, map[string]box) {
		mean := func(name string) float64 {
			sum := 0
			for _, i := range rows[side+name] {
				sum += i
			}
			return float64(sum) / float64(len(rows[side+name]))
		}
		slices.SortStableFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(mean(a), mean(b)), strings.Compare(a, b)) })
		boxes, at := make([]box, len(names)), map[string]box{}
		// Each box as near its middle as the ones above and below let it.
		free := 0
		for i, name := range names {
			y := max(int((mean(name)+0.5)*rowHeight), free+rowHeight/2)
			y = min(y, d.Height-(len(names)-i-1)*rowHeight-rowHeight/2)
			free = y + rowHeight/2
			boxes[i] = box{Y: y, Label: cut(name, boxLetters), Full: name, Side: fmt.Sprint(side, i)}
			at[name] = boxes[i]
		}
		return boxes, at
	}
	left, right := []string{}, []string{}
	for _, a := range arrows {
		if !slices.Contains(left, a.source) {
			left = append(left, a.source)
		}
		if !slices.Contains(right, a.dest) {
			right = append(right, a.dest)
		}
	}
	var from, to map[string]box
	d.Sources, from = place("<", left)
	d.Targets, to = place(">", right)
	for i, a := range arrows {
		a.Y = i*rowHeight + rowHeight/2
		a.In = curve(boxWidth, port(from[a.source].Y, rows["<"+a.source], i), pillLeft, a.Y)
		a.Out = curve(pillLeft+pillWidth, a.Y, drawingWidth-boxWidth-9, port(to[a.dest].Y, rows[">"+a.dest], i))
		a.Ends = from[a.source].Side + " " + to[a.dest].Side
		d.Arrows = append(d.Arrows, a)
	}
	return d
}

// port is where on the side of a box an arrow stands: those of one box beside
// each other, so that their tips are told apart.
func port(middle int, rows []int, i int) int {
	const room = 20
	if len(rows) < 2 {
		return middle
	}
	step := min(10, room/(len(rows)-1))
	return middle - step*(len(rows)-1)/2 + step*slices.Index(rows, i)
}

// curve is a path that leaves and arrives level.
func curve(x1, y1, x2, y2 int) string {
	middle := (x1 + x2) / 2
	return fmt.Sprintf("M%d %dC%d %d %d %d %d %d", x1, y1, middle, y1, middle, y2, x2, y2)
}
