// Package ascii looks at text from servers, nearly all of which is plain.
package ascii

// Printable reports whether s has nothing but letters, digits, punctuation and spaces of ASCII.
func Printable[T string | []byte](s T) bool {
	for ; len(s) >= 8; s = s[8:] { // one load: some texts are long
		x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		const ones, highs = 0x0101010101010101, 0x8080808080808080
		if (x|(x-ones*' ')|(x+ones))&highs != 0 {
			return false
		}
	}
	for i := range len(s) {
		if s[i]-' ' > '~'-' ' {
			return false
		}
	}
	return true
}
