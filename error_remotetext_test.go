package steadyhttp_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/steadyhttp/steadyhttp"
)

// assertTidy fails the test if a text could do harm in a terminal, a log or a database.
func assertTidy(t *testing.T, what, text string, limit int) {
	t.Helper()
	if len(text) > limit || !utf8.ValidString(text) {
		t.Errorf("%s has %d bytes, valid %v", what, len(text), utf8.ValidString(text))
	}
	for _, r := range text {
		if !unicode.IsPrint(r) {
			t.Errorf("%s has %U: %.100q", what, r, text)
			return
		}
	}
}

// Whoever has taken it out of an answer, remote text is bounded and escaped wherever it comes out.
func TestRemoteTextIsTidy(t *testing.T) {
	for kind, text := range map[string]string{
		"ESC":           "a\x1b[2J\x1b]0;title\x07b",
		"CSI":           "a\u009b31mb",
		"CR LF":         "a\r\nlevel=ERROR msg=forged",
		"NEL":           "a\u0085b\u2028c\u2029d",
		"NUL":           "a\x00b\x7f",
		"invalid UTF-8": "a\xff\xfe\xc3(b\xed\xa0\x80",
		"bidi":          "a\u202eevil\u202c \u2066x\u2069 \u200f\u061c",
		"invisible":     "a\u200b\u200d\ufeff\u00adb\U000e0041",
		"replacement":   "a\ufffdb",
		"long":          strings.Repeat("x", 60_098),
		"long ESC":      strings.Repeat("\x1b", 60_098),
		"long runes":    strings.Repeat("Ⱥ\U0001f600", 20_000),
		"cut in a rune": strings.Repeat("x", 127) + "é" + strings.Repeat("x", 893) + "é" + strings.Repeat("é", 2000),
		"quotes":        `a"b\n\x1b` + "\x1b",
	} {
		verdict := steadyhttp.Verdict{Class: steadyhttp.Transient, Code: text, Message: text, TrackingID: text}
		parse := func(steadyhttp.Attempt) steadyhttp.Verdict { return verdict }
		for name, classify := range map[string]func(steadyhttp.Attempt) steadyhttp.Verdict{
			"Classify": parse,
			"Parse":    (&steadyhttp.Rules{Parse: parse}).Classify,
			"invalid":  func(steadyhttp.Attempt) steadyhttp.Verdict { v := verdict; v.Class = 99; return v },
		} {
			for _, nested := range []bool{false, true} {
				t.Run(fmt.Sprint(kind, "/", name, "/nested ", nested), func(t *testing.T) {
					var asText, asJSON bytes.Buffer
					all := &slog.HandlerOptions{Level: slog.LevelDebug}
					var verdicts []steadyhttp.Verdict
					trace := steadyhttp.Join(steadyhttp.Log(slog.New(slog.NewTextHandler(&asText, all))), steadyhttp.Log(slog.New(slog.NewJSONHandler(&asJSON, all))))
					var log wireLog
					run := func(steps ...step) (*http.Response, error) {
						var base http.RoundTripper = newScript(steps...)
						transport := &steadyhttp.Transport{Base: base, Policy: atOnce(), Classify: classify, Trace: steadyhttp.Join(trace, log.trace())}
						if nested {
							transport = &steadyhttp.Transport{Base: transport, Policy: atOnce(), Trace: steadyhttp.Join(trace, log.trace())}
						}
						return transport.RoundTrip(newRequest(t, "GET", ""))
					}
					answer := step(func(req *http.Request) (*http.Response, error) {
						return answersWith(503, fakeBody{content: "x", stalls: false})(req)
					})
					if resp, err := run(answer); err == nil {
						check := steadyhttp.Check(resp)
						assertTidy(t, "Check", check.Error(), 4<<10)
						a, _ := steadyhttp.AttemptOf(resp)
						verdicts = append(verdicts, a.Verdict)
						resp.Body.Close()
						slog.New(slog.NewTextHandler(&asText, all)).Error("failed", "err", check)
					} else if name != "invalid" {
						t.Errorf("got %v", err)
					} else {
						assertTidy(t, "Error", err.Error(), 8<<10)
					}
					if _, err := run(answer, failsWith(trReset)); err != nil {
						assertTidy(t, "Error", err.Error(), 8<<10)
						slog.New(slog.NewTextHandler(&asText, all)).Error("failed", "err", err)
						slog.New(slog.NewJSONHandler(&asJSON, all)).Error("failed", "err", err)
					}
					for _, a := range log.all() {
						verdicts = append(verdicts, a.Verdict)
					}
					for _, v := range verdicts {
						assertTidy(t, "Code", v.Code, 1<<10)
						assertTidy(t, "Message", v.Message, 4<<10)
						assertTidy(t, "Target", v.TrackingID, 1<<10)
					}
					if asText.Len() == 0 || asJSON.Len() == 0 {
						t.Error("nothing was logged: the test tests nothing")
					}
					for _, logged := range []*bytes.Buffer{&asText, &asJSON} {
						for line := range strings.Lines(logged.String()) {
							assertTidy(t, "a log line", strings.TrimSuffix(line, "\n"), 8<<10)
							if !strings.HasPrefix(line, "time=") && !strings.HasPrefix(line, "{") {
								t.Errorf("a forged line: %q", line)
							}
						}
					}
				})
			}
		}
	}
}

// What is tidy stays as it is: the text that a service's support needs is not for us to change.
func TestTidyTextIsKept(t *testing.T) {
	for _, text := range []string{"plain", `a "quoted" \ path`, "Übermäßig", "日本語", "😀", strings.Repeat("x", 100)} {
		classify := func(steadyhttp.Attempt) steadyhttp.Verdict {
			return steadyhttp.Verdict{Class: steadyhttp.Permanent, Code: text, Message: text, TrackingID: text}
		}
		resp, _ := do(t, &steadyhttp.Transport{Base: newScript(answers(400, "x")), Classify: classify}, newRequest(t, "GET", ""))
		if a, _ := steadyhttp.AttemptOf(resp); a.Verdict.Code != text || a.Verdict.Message != text || a.Verdict.TrackingID != text {
			t.Errorf("%q is now %+v", text, a.Verdict)
		}
	}
}

// An *Error that a base makes by hand is remote text too.
func TestForgedErrorIsTidy(t *testing.T) {
	forged := &steadyhttp.Error{Attempts: 1, Stop: "permanent", Verdict: steadyhttp.Verdict{Class: steadyhttp.Permanent, Code: "a\x1b\r\nb", TrackingID: strings.Repeat("x", 60_000)}}
	for n, steps := range [][]step{{failsWith(forged)}, {answers(503, strings.Repeat("x", 100<<10)), failsWith(forged)}} {
		var log wireLog
		_, err := (&steadyhttp.Transport{Base: newScript(steps...), Policy: atOnce(), Trace: log.trace()}).RoundTrip(newRequest(t, "GET", ""))
		if n > 0 {
			assertTidy(t, "Error", err.Error(), 8<<10)
		}
		for _, a := range log.all() {
			assertTidy(t, "Code", a.Verdict.Code, 1<<10)
			assertTidy(t, "Target", a.Verdict.TrackingID, 1<<10)
		}
	}
}
