//go:build !race

package field

const raced = false
