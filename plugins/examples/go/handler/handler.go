// Package handler is a batch word count: the lines of a text, in batches.
package handler

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"wit_component/flowkit"
)

var About = flowkit.About{Name: "wordcount", Version: "0.1.0"}

type counts struct {
	Lines int `json:"lines"`
	Words int `json:"words"`
	Bytes int `json:"bytes"`
}

type batch struct {
	Lines []string `json:"lines"`
}

type checkpoint struct {
	Next int `json:"next"`
}

// Handler is one run's word count; its fields are the input's.
type Handler struct {
	Text       *string `json:"text"`
	BatchLines int     `json:"batch_lines"`
	FailAt     *int    `json:"fail_at"`
	Permanent  bool    `json:"permanent"`
	SleepMs    uint32  `json:"sleep_ms"`

	lines []string
	next  int
}

func (h *Handler) IterBatches(input, saved json.RawMessage) error {
	*h = Handler{BatchLines: 10}
	from := checkpoint{}
	if err := flowkit.Parse(input, h, saved, &from); err != nil {
		return err
	}
	if h.Text == nil || h.BatchLines < 1 {
		return flowkit.Fail("validation_error", true, "`text` is missing, or `batch_lines` is below 1")
	}
	if *h.Text != "" {
		h.lines = strings.Split(strings.TrimSuffix(*h.Text, "\n"), "\n")
	}
	h.next = from.Next
	return nil
}

func (h *Handler) NextBatch() (string, any, error) {
	start := h.next * h.BatchLines
	if start >= len(h.lines) {
		return "", nil, nil
	}
	h.next++
	return fmt.Sprint("b", h.next-1), batch{h.lines[start:min(start+h.BatchLines, len(h.lines))]}, nil
}

func (h *Handler) ProcessBatch(uid string, payload json.RawMessage) (any, error) {
	if err := flowkit.Sleep(h.SleepMs); err != nil { // looks at the cancel flag first
		return nil, err
	}
	number, err := strconv.Atoi(uid[1:])
	if err != nil {
		return nil, err
	}
	if h.FailAt != nil && *h.FailAt == number {
		return nil, flowkit.Fail("poison", h.Permanent, "batch %s is poisoned", uid)
	}
	var b batch
	if err := json.Unmarshal(payload, &b); err != nil {
		return nil, err
	}
	done := counts{Lines: len(b.Lines)}
	for _, line := range b.Lines {
		done.Words += len(strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\n\f\r", r) }))
		done.Bytes += len(line)
	}
	if err := flowkit.UpsertPartial(uid, done); err != nil {
		return nil, err
	}
	return done, flowkit.SaveCheckpoint(checkpoint{number + 1})
}
