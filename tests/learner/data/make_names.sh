#!/bin/sh
# Writes the golden sample of names in a capture: dig asks dnsmasq, openssl's client calls its server, tcpdump watches.
#
# unshare -n sh tests/learner/data/make_names.sh
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'kill $(cat "$work"/*.pid) 2>/dev/null || true; rm -rf "$work"' EXIT
ip link set lo up
for address in 10.0.0.1 10.0.0.53 203.0.113.7 203.0.113.8 203.0.113.9; do ip addr add "$address/32" dev lo; done
ip -6 addr add 2001:db8::1/128 dev lo
ip -6 addr add 2001:db8::7/128 dev lo
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=test -keyout "$work/key" -out "$work/cert" 2>/dev/null
cat > "$work/dns" <<'END'
no-resolv
no-hosts
local-ttl=300
listen-address=10.0.0.53
bind-interfaces
host-record=api.example.com,203.0.113.7,2001:db8::7
cname=www.example.com,api.example.com
host-record=one.example.net,203.0.113.8
host-record=two.example.net,203.0.113.8
host-record=plain.example.org,203.0.113.9
END
dnsmasq --keep-in-foreground --conf-file="$work/dns" --user=root --pid-file & echo $! > "$work/dns.pid"
for address in 203.0.113.7 203.0.113.8 '[2001:db8::7]'; do
  openssl s_server -quiet -accept "$address:443" -key "$work/key" -cert "$work/cert" >/dev/null 2>&1 & echo $! > "$work/$address.pid"
done
python3 -m http.server --bind 203.0.113.9 80 >/dev/null 2>&1 & echo $! > "$work/http.pid"
tcpdump -i lo -s 0 -U -w names.pcap 2>/dev/null & echo $! > "$work/tcpdump.pid"
sleep 2
ask() { dig +short -b 10.0.0.1 @10.0.0.53 "$1" "$2"; }
ask www.example.com A
ask www.example.com AAAA
ask one.example.net A
ask two.example.net A
ask plain.example.org A
ask nothing.example.org A
echo | timeout 5 openssl s_client -connect 203.0.113.7:443 -bind 10.0.0.1 -servername www.example.com >/dev/null 2>&1 || true
echo | timeout 5 openssl s_client -connect '[2001:db8::7]:443' -servername api.example.com >/dev/null 2>&1 || true
echo | timeout 5 openssl s_client -connect 203.0.113.8:443 -bind 10.0.0.1 -noservername >/dev/null 2>&1 || true
echo | timeout 5 openssl s_client -connect 203.0.113.8:443 -bind 10.0.0.1 -servername two.example.net >/dev/null 2>&1 || true
echo | timeout 5 openssl s_client -connect 203.0.113.7:443 -bind 10.0.0.1 -servername liar.example.net >/dev/null 2>&1 || true
curl --silent --interface 10.0.0.1 http://203.0.113.9/ >/dev/null
sleep 1
kill "$(cat "$work/tcpdump.pid")"
