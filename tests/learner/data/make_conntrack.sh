#!/bin/sh
# Writes the golden samples of conntrack: real connections in a network namespace of their own, one to an address that
# is translated, as a ClusterIP of Kubernetes is. Needs root, conntrack, nft, curl and python3.
#
# TZ=UTC unshare -n sh tests/learner/data/make_conntrack.sh
set -eu
cd "$(dirname "$0")/conntrack"
ip link set lo up
sysctl -qw net.netfilter.nf_conntrack_timestamp=1 net.netfilter.nf_conntrack_acct=1
nft -f - <<END
table ip nat {
 chain out {
  type nat hook output priority -100
  ip daddr 10.96.0.1 tcp dport 80 dnat to 127.0.0.1:18080
 }
}
table inet seen {
 chain pre {
  type filter hook prerouting priority 0
  ct state new,established accept
 }
}
END
ip addr add 10.96.0.1/32 dev lo
timeout 12 conntrack -E -o timestamp > events.txt 2>/dev/null &
timeout 12 conntrack -E -o xml,timestamp > events.xml 2>/dev/null &
python3 -m http.server 18080 --bind 127.0.0.1 >/dev/null 2>&1 &
server=$!
sleep 4
curl -s http://10.96.0.1/ >/dev/null
curl -s -m 1 http://127.0.0.1:9/ || true
python3 -c "
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 5353))
socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('::1', 5353))
"
conntrack -L > table.txt 2>/dev/null
conntrack -L -o xml > table.xml 2>/dev/null
conntrack -L -o ktimestamp > started.txt 2>/dev/null
conntrack -L -o extended > extended.txt 2>/dev/null
conntrack -D -p tcp >/dev/null 2>&1
sleep 9
kill "$server"
