package coordtest

import "os"

// Lose stops the coordinator and throws away its store, as a disk does that
// breaks. Restart then begins with an empty one, at the same address and under
// the same key.
func (c *Coordinator) Lose() {
	c.tb.Helper()
	c.Stop()
	if err := os.RemoveAll(c.dir); err != nil {
		c.tb.Fatal(err)
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		c.tb.Fatal(err)
	}
}
