package defendertest

import (
	"cmp"
	"fmt"
	"time"

	"github.com/steadyhttp/steadyhttp/quota"
)

// Config describes the simulated tenant. Its zero value is a tenant of 50
// machines with the documented quotas and no faults.
type Config struct {
	// Machines is how many machines the tenant has, with one alert each.
	// 0: 50. Negative: none, and the list of machines is then answered 404,
	// as documented.
	Machines int

	// PageSize is how many items a page of a list without $top has. The real
	// pages hold 10,000, which few tests could afford. 0: 100.
	PageSize int

	// Minute and Hour are how long the quotas' minute and hour last, so that
	// "an hour" can be 10 seconds. 0: 60 s and 3600 s. The text of a 429 names
	// the documented windows all the same.
	Minute, Hour time.Duration

	// Counting is how calls are counted. 0: Rolling.
	Counting Counting

	// Phase is how far into their minute and hour the Fixed windows are at the
	// start, as a clock would be: 37m20s is 20 s into the minute. It is the
	// phase of hunting's CPU cycle too. 0: they begin with the server.
	Phase time.Duration

	// Quotas replaces single rows of DefaultQuotas, by endpoint family. The
	// type is that of defender.Config.Quotas, so that a test can give both the
	// same. No window at all lifts the family's limits. Nil: none is replaced.
	Quotas map[string][]quota.Window

	// NoQuotas lifts all limits on the number of calls. False: they hold.
	NoQuotas bool

	// HuntingCPU is how much CPU time the queries of both hunting APIs may
	// take in a cycle of 15 of the quotas' minutes, and HuntingCost how much
	// each takes. Over it a query is answered 429 until the next cycle. It is
	// an account only: a query is no slower for it. 0: no limit, and 1 s.
	HuntingCPU, HuntingCost time.Duration

	// Wait is how a 429 tells when to come back. 0: WaitHeader|WaitSentence.
	Wait WaitForm

	// ActionTime is how long a machine action takes to succeed: it is Pending
	// for the first half and InProgress for the second. 0: 300 ms.
	ActionTime time.Duration

	// Second is how an order is answered while one like it is active. 0: SecondRefused.
	Second Second

	// Faults are what goes wrong from the start. Zero: nothing.
	Faults Faults

	// Seed is that of the fault dice. 0: 1. The same seed and the same order
	// of arrival give the same faults.
	Seed uint64

	// Token, if set, may come with a call as "Authorization: Bearer <Token>".
	// It never expires. "": none, and if there are no Clients either, every
	// call is let in.
	Token string

	// Clients are the applications, by client_id, with their secrets. If there
	// are any, a call must come with a live token that the server issued to
	// one of them, or with Token; otherwise it is answered 401. Each of them
	// has quotas of its own, but for hunting's. None: the token endpoint gives
	// a token to everybody, and no call needs it.
	Clients map[string]string

	// TokenLife is how long a token lives. 0: the documented hour, which lasts
	// as long as Hour says.
	TokenLife time.Duration

	// NoLicence refuses every call with the 401 of a tenant that has no
	// licence. A new token doesn't help, and it isn't meant to. False: there is
	// a licence.
	NoLicence bool

	// KeepCalls is how many of the latest calls the ledger keeps, for a server
	// that runs for days. 0: all.
	KeepCalls int

	// Addr is the address that the API listens on, as in "127.0.0.1:8080". "":
	// a free port of the loopback interface.
	Addr string

	// StorageAddr is that of the downloads. "": a free port on the host of Addr.
	StorageAddr string

	// ControlAddr is that of the control API, which must be one of the loopback interface: whoever
	// reaches it may change everything. "": there is none.
	ControlAddr string

	// TLS serves the API and the downloads over https, with a certificate that is made at the start.
	// Its authority is Server.Certificate. False: over http.
	TLS bool
}

// check panics on a value that makes no sense.
func (c *Config) check() {
	for name, d := range map[string]time.Duration{
		"Minute": c.Minute, "Hour": c.Hour, "ActionTime": c.ActionTime, "Phase": c.Phase,
		"HuntingCPU": c.HuntingCPU, "HuntingCost": c.HuntingCost, "TokenLife": c.TokenLife,
	} {
		if d < 0 {
			panic(fmt.Sprintf("defendertest: Config.%s is %v: use a positive duration, or 0 for the default", name, d))
		}
	}
	if c.Counting > Strict {
		panic(fmt.Sprintf("defendertest: Config.Counting is %d: use Rolling, Fixed, Bucket or Strict", c.Counting))
	}
	if c.Second > SecondPending {
		panic(fmt.Sprintf("defendertest: Config.Second is %d: use SecondRefused or SecondPending",
			c.Second))
	}
	if _, ok := c.Clients[""]; ok {
		panic("defendertest: Config.Clients has a client without an id")
	}
	if c.KeepCalls < 0 {
		panic(fmt.Sprintf("defendertest: Config.KeepCalls is %d: use a positive number, or 0 for all", c.KeepCalls))
	}
	if c.PageSize < 0 {
		panic(fmt.Sprintf("defendertest: Config.PageSize is %d: use a positive number, or 0 for 100", c.PageSize))
	}
	if err := checkQuotas("Config.Quotas", c.Quotas); err != nil {
		panic("defendertest: " + err.Error())
	}
	c.Faults.check("Config.Faults")
}

// checkQuotas says which windows make no sense. A misspelt family would silently leave the
// documented limit in force.
func checkQuotas(prefix string, quotas map[string][]quota.Window) error {
	known := DefaultQuotas()
	for family, windows := range quotas {
		if _, ok := known[family]; !ok {
			return fmt.Errorf("%s has no family %q: use a key of DefaultQuotas", prefix, shown(family))
		}
		for i, w := range windows {
			if w.N < 1 || w.Per <= 0 {
				return fmt.Errorf("%s[%q][%d] is %d per %v: "+
					"use at least 1 in a positive time, and no window at all for no limit", prefix, family, i, w.N,
					w.Per)
			}
		}
	}
	return nil
}

// minute is how long the quotas' minute lasts.
func (c *Config) minute() time.Duration { return cmp.Or(c.Minute, time.Minute) }

// hour is how long the quotas' hour lasts. Nothing makes it 60 of the minutes.
func (c *Config) hour() time.Duration { return cmp.Or(c.Hour, time.Hour) }

// tokenLife resolves the default.
func (c *Config) tokenLife() time.Duration { return cmp.Or(c.TokenLife, c.hour()) }

// huntingCost resolves the default.
func (c *Config) huntingCost() time.Duration { return cmp.Or(c.HuntingCost, time.Second) }
