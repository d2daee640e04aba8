// Reads a chain (argument 1) and roots (argument 2), PEM, and a trust domain (argument 3); prints whose SVID it is.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func certificates(path string) (found []*x509.Certificate) {
	data, err := os.ReadFile(path)
	for err == nil {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return found
		}
		var one *x509.Certificate
		if one, err = x509.ParseCertificate(block.Bytes); err == nil {
			found = append(found, one)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
	return nil
}

func main() {
	domain := spiffeid.RequireTrustDomainFromString(os.Args[3])
	bundle := x509bundle.FromX509Authorities(domain, certificates(os.Args[2]))
	id, _, err := x509svid.Verify(certificates(os.Args[1]), bundle)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(id)
}
