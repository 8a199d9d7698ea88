// Package handler counts the words of a text, in batches of lines.
package handler

import (
	"fmt"
	"iter"
	"strings"

	"flowkit"
)

func init() { flowkit.Export("wordcount", "0.1.0", batches, process) }

type input struct {
	Text       *string `json:"text"`
	BatchLines *int    `json:"batch_lines"`
	FailAt     *int    `json:"fail_at"`
	Permanent  bool    `json:"permanent"`
	SleepMs    uint32  `json:"sleep_ms"`
}

type batch struct {
	K     int      `json:"k"`
	Lines []string `json:"lines"`
}

func batches(in input, first int) (iter.Seq2[string, batch], error) {
	size := flowkit.Or(in.BatchLines, 10)
	if in.Text == nil || size < 1 {
		return nil, flowkit.Invalid("`text` is missing, or `batch_lines` is below 1")
	}
	lines := strings.Split(*in.Text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return func(yield func(string, batch) bool) {
		for k := first; k*size < len(lines); k++ {
			end := min((k+1)*size, len(lines))
			if !yield(fmt.Sprint("b", k), batch{k, lines[k*size : end]}) {
				return
			}
		}
	}, nil
}

func process(in input, uid string, b batch) (flowkit.Done, error) {
	if err := flowkit.Sleep(in.SleepMs); err != nil { // fails when the run is cancelled
		return flowkit.Done{}, err
	}
	if b.K == flowkit.Or(in.FailAt, -1) {
		return flowkit.Done{}, flowkit.Fail("poison", in.Permanent, "batch %s is poisoned", uid)
	}
	words, bytes, longest := 0, 0, 0
	for _, line := range b.Lines {
		words += len(strings.FieldsFunc(line, isSpace))
		bytes += len(line)
		longest = max(longest, len(line))
	}
	return flowkit.Done{
		Metrics:    flowkit.Object{"lines": len(b.Lines), "words": words, "bytes": bytes},
		Artifact:   flowkit.Object{"longest": longest},
		Checkpoint: b.K + 1,
	}, nil
}

func isSpace(r rune) bool { return strings.ContainsRune(" \t\n\f\r", r) }
