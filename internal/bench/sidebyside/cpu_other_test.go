//go:build !unix

package sidebyside

import "time"

const clock = "time"

var start = time.Now()

func spent() time.Duration { return time.Since(start) }
