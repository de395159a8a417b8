package systemd

import (
	"fmt"
	"net"
	"os"
	"time"
)

// Ready is what a service of Type=notify says when it does its work.
const Ready = "READY=1"

// notifyTimeout is how long the service manager may leave the message where it
// cannot be put: it reads at once, or there is something wrong with it.
const notifyTimeout = 5 * time.Second

// Notify tells the service manager the state of this process, as sd_notify(3)
// does. A process that none waits for tells nobody.
func Notify(state string) error {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return nil
	}
	// A name that begins with "@" is of no file, for package net too.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer c.Close()
	c.SetWriteDeadline(time.Now().Add(notifyTimeout))
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
