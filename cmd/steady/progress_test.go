package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/steadyhttp/steadyhttp/quota"
)

// How long the quotas make a batch take is quota.Estimate's word: the slowest family decides.
func TestBatchKnowsTheLeastTime(t *testing.T) {
	machines := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprint("m", i))
		}
		return list
	}
	minute := []quota.Window{{N: 100, Per: time.Minute}, {N: 1500, Per: time.Hour}}
	for _, c := range []struct {
		machines int
		quotas   map[string][]quota.Window
		want     time.Duration
	}{
		{300, nil, 0},
		{300, map[string][]quota.Window{"machines/{id}": minute}, quota.Estimate(minute, 300)},
		{2_000, map[string][]quota.Window{"machines/{id}": minute}, quota.Estimate(minute, 2_000)},
		{300, map[string][]quota.Window{
			"machines/{id}": minute, "machines/{id}/vulnerabilities": {{N: 50, Per: time.Minute}},
		}, quota.Estimate([]quota.Window{{N: 50, Per: time.Minute}}, 300)},
	} {
		b := &batch{machines: machines(c.machines), quotas: c.quotas}
		if got := b.least(); got != c.want {
			t.Errorf("%d machines: %v, want %v", c.machines, got, c.want)
		}
	}
}

// Where there is no terminal, each line says how much longer it takes at the least.
func TestProgressTellsTheLeastTimeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, "run")
		p.expect(100, 10*time.Second)
		for range 3 {
			time.Sleep(4 * time.Second)
			p.step()
		}
		want := "run: 1 of about 100 calls, 6s more at least\n" +
			"run: 2 of about 100 calls, 2s more at least\nrun: 3 of about 100 calls\n"
		if got := out.String(); got != want {
			t.Errorf("said %q, want %q", got, want)
		}
		if p.expect(100, 0); strings.Contains(p.(*lines).left(), "least") {
			t.Error("a client without quotas is told a time")
		}
	})
}
