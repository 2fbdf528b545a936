package steadyotel_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// alertExprs returns the expressions of the alert rules, by alert.
func alertExprs(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("grafana/steadyhttp.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	exprs, alert := make(map[string]string), ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "- alert: "); ok {
			alert = name
		}
		if expr, ok := strings.CutPrefix(line, "expr: "); ok {
			exprs[alert] = expr
		}
	}
	return exprs
}

// There is an alert for each of the things that somebody must get up for, and a test of it beside it.
func TestAlertRules(t *testing.T) {
	exprs := alertExprs(t)
	tests, err := os.ReadFile("grafana/steadyhttp.rules.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for alert, metric := range map[string]string{
		"SteadyhttpCallsFail": "steadyhttp_call_duration_seconds_count", "SteadyhttpQuotaNearlyUsed": "steadyhttp_quota_used",
		"SteadyhttpBudgetSpent": "steadyhttp_budget_refusals_total", "SteadyhttpWaitsLong": "steadyhttp_wait_duration_seconds_bucket",
		"SteadyhttpThrottled": "http_client_request_duration_seconds_count",
	} {
		if !strings.Contains(exprs[alert], metric) {
			t.Errorf("%s asks for %q", alert, exprs[alert])
		}
		if fires := regexp.MustCompile(`alertname: ` + alert + "\n *exp_alerts"); !fires.Match(tests) {
			t.Errorf("no test has %s fire", alert)
		}
		if silent := regexp.MustCompile(`alertname: ` + alert + "\n *[^ e]"); !silent.Match(tests) {
			t.Errorf("no test has %s keep silent", alert)
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not here (Debian's package prometheus has it): the rules are read, but not run")
	}
	for _, args := range [][]string{{"check", "rules", "steadyhttp.rules.yml"}, {"test", "rules", "steadyhttp.rules.test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "grafana"
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "SUCCESS") {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
