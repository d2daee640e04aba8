// tlog-peer is the other side in the tests of `limen audit witness`: transparency-dev's witness, its client, and its
// reading of signed notes.
//
//	tlog-peer key NAME                    prints a cosigner's secret key and its verifier key
//	tlog-peer witness LOG_VKEY KEY        serves add-checkpoint on loopback, prints its address
//	tlog-peer ask URL OLD PROOF… < NOTE   asks a witness for cosignatures over a checkpoint, prints them
//	tlog-peer open VKEY… < NOTE           verifies a note with all of these keys, prints its text
package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"

	fnote "github.com/transparency-dev/formats/note"
	client "github.com/transparency-dev/witness/client/http"
	"github.com/transparency-dev/witness/persistence/inmemory"
	"github.com/transparency-dev/witness/witness"
	"golang.org/x/mod/sumdb/note"
)

func try[T any](found T, err error) T {
	check(err)
	return found
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func key(name string) {
	secret, public, err := note.GenerateKey(rand.Reader, name)
	check(err)
	fmt.Printf("%s\n%s\n", secret, try(fnote.VKeyToCosignatureV1(public)))
}

func serve(logKey, secret string) {
	verifier := try(note.NewVerifier(logKey))
	found := try(witness.New(context.Background(), witness.Opts{
		Persistence: inmemory.New(),
		Signers:     []note.Signer{try(fnote.NewSignerForCosignatureV1(secret))},
		VerifierForLog: func(_ context.Context, origin string) (note.Verifier, bool, error) {
			return verifier, origin == verifier.Name(), nil
		},
	}))
	listener := try(net.Listen("tcp", "127.0.0.1:0"))
	fmt.Printf("http://%s\n", listener.Addr())
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", witness.NewHTTPHandler(found).AddCheckpoint)
	check(http.Serve(listener, mux))
}

func ask(words []string) {
	where, old := try(url.Parse(words[0])), try(strconv.ParseUint(words[1], 10, 64))
	var proof [][]byte
	for _, word := range words[2:] {
		proof = append(proof, try(base64.StdEncoding.DecodeString(word)))
	}
	lines, size, err := client.NewWitness(where, http.DefaultClient).Update(context.Background(), old, try(io.ReadAll(os.Stdin)), proof)
	if err != nil {
		fmt.Printf("refused %d: %v\n", size, err)
		os.Exit(1)
	}
	os.Stdout.Write(lines)
}

func open(words []string) {
	var keys []note.Verifier
	for _, word := range words {
		if verifier, err := note.NewVerifier(word); err == nil {
			keys = append(keys, verifier)
		} else {
			keys = append(keys, try(fnote.NewVerifier(word)))
		}
	}
	found := try(note.Open(try(io.ReadAll(os.Stdin)), note.VerifierList(keys...)))
	if len(found.Sigs) != len(keys) {
		fmt.Fprintf(os.Stderr, "%d of %d keys signed\n", len(found.Sigs), len(keys))
		os.Exit(1)
	}
	fmt.Print(found.Text)
}

func main() {
	switch words := os.Args[2:]; os.Args[1] {
	case "key":
		key(words[0])
	case "witness":
		serve(words[0], words[1])
	case "ask":
		ask(words)
	case "open":
		open(words)
	}
}
