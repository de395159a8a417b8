package trust

// ParseManifest reads the text of a manifest that this program wrote itself and
// has not signed yet. What comes from elsewhere goes through OpenManifest.
func ParseManifest(text string) (*Manifest, error) { return parseManifest(text) }

// ParseEnded reads the text of an ended list that this program wrote itself and
// has not signed yet. What comes from elsewhere goes through OpenEnded.
func ParseEnded(text string) (*Ended, error) { return parseEnded(text) }
