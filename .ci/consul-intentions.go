// Reads config entries of Consul, one in JSON a line, with the types of its own client: a field that they do not have is an
// error, as is an entry that the client does not read as service intentions. Answers `ok` or the reason, a line each.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"github.com/hashicorp/consul/api"
)

func check(line []byte) error {
	entry, err := api.DecodeConfigEntryFromJSON(line)
	if err != nil {
		return err
	}
	if _, ok := entry.(*api.ServiceIntentionsConfigEntry); !ok {
		return fmt.Errorf("it is a %s", entry.GetKind())
	}
	strict := json.NewDecoder(bytes.NewReader(line))
	strict.DisallowUnknownFields()
	return strict.Decode(&api.ServiceIntentionsConfigEntry{})
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if err := check(lines.Bytes()); err != nil {
			fmt.Printf("%q\n", err.Error())
			continue
		}
		fmt.Println("ok")
	}
}
