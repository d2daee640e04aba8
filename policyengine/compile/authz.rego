# The decision of design D3 over the data in `data.limen.release`, which Limen writes.
#
# `input` is one input document (version 1); `data.limen.authz.decision` answers it. Paths, hosts and identities come
# canonical: this module never decodes, folds or trims. Rules are found by caller, port, method, host and path; only
# what is found there is tested for its conditions. Truths are true, false, or null for unknown.
package limen.authz

import data.limen.release

decision := answer("deny", "deny", "enforce", nothing, "LM2390") if {
	not readable
} else := answer("deny", "deny", "enforce", nothing, "LM2305") if {
	not name
} else := answer("deny", "deny", mode, nothing, "LM2304") if {
	ambiguous
	not lenient
} else := answer("deny", "deny", mode, grant, "LM2304") if {
	ambiguous
	grant := release.services[name].grants[winners[0]]
	grant.effect == "deny"
} else := answer("allow", "deny", mode, nothing, "LM2304") if {
	ambiguous
} else := answer("allow", "allow", mode, grant, "LM2300") if {
	grant := release.services[name].grants[deciding]
	grant.effect == "allow"
} else := answer("allow", "deny", mode, grant, "LM2301") if {
	lenient
	grant := release.services[name].grants[deciding]
	grant.tier > 0
} else := answer("deny", "deny", mode, grant, "LM2301") if {
	grant := release.services[name].grants[deciding]
} else := answer("deny", "deny", mode, nothing, "LM2303") if {
	input.source == null
} else := answer(default_effect, "deny", mode, nothing, "LM2306") if {
	not declared
} else := answer(default_effect, "deny", mode, nothing, "LM2302")

answer(effect, policy_effect, under, grant, code) := {
	"decision": effect,
	"policy_decision": policy_effect,
	"mode": under,
	"snapshot": release.snapshot,
	"tier": grant.tier_name,
	"policy": grant.policy,
	"rule": grant.rule,
	"code": code,
}

nothing := {"tier_name": "", "policy": "", "rule": ""}

readable if {
	input.version == 1
	release.schema == 1
}

# -- the called service, its mode, and how much of the request counts

name := input.service if {
	release.names[input.service]
} else := release.identities.exact[input.service] if {
	release.identities.exact[input.service]
} else := found if {
	is_string(input.service)
	some found in {release.identities.below[prefix] | some prefix in prefixes(input.service)}
}

port := format_int(input.port, 10)

declared := release.services[name].ports[port]

default observed := false

observed if {
	input.time != null
	input.time < release.services[name].observe_until
}

default mode := "enforce"

mode := "observe" if observed

lenient if {
	observed
	input.source != null
}

default default_effect := "deny"

default_effect := "allow" if lenient

parsed if {
	input.parsed
	not is_connection
}

is_connection if declared == "tcp"

default method := null

method := input.method if parsed

default host := null

host := input.host if parsed

default path := null

path := input.path if {
	parsed
	not release.services[name].ignores_case
} else := input.path_folded if {
	parsed
	release.services[name].ignores_case
}

ambiguous if {
	parsed
	count(input.ambiguous) > 0
}

ambiguous if {
	parsed
	release.services[name].ignores_case
	input.path_folds == false
}

ambiguous if {
	parsed
	count(ambiguous_headers) > 0
}

ambiguous_headers contains header if {
	some header
	release.services[name].headers[header]
	input.headers[header].single == false
}

ambiguous_headers contains meant if {
	some header
	input.headers[header]
	not release.services[name].headers[header]
	some meant in release.services[name].spellings[replace(header, "_", "-")]
}

# -- what may match: by caller, then port and method, then host, then path

prefixes(identity) := {concat("/", array.slice(parts, 0, place)) |
	parts := split(identity, "/")
	some place
	parts[place]
	place > 2
}

above := prefixes(input.source) if input.source != null

tables contains release.services[name].callers.any if input.source != null

tables contains release.services[name].callers.nobody if input.source == null

tables contains release.services[name].callers.exact[input.source] if input.source != null

tables contains release.services[name].callers.below[prefix] if some prefix in above

default method_key := "?"

method_key := method if method != null

keys contains [table, number, verb] if {
	some table in tables
	some number in [port, "0"]
	some verb in [method_key, ""]
	release.services[name].tables[table][number][verb]
}

places contains release.services[name].tables[key[0]][key[1]][key[2]].always if some key in keys

places contains release.services[name].tables[key[0]][key[1]][key[2]].exact[host] if {
	host != null
	some key in keys
}

places contains release.services[name].tables[key[0]][key[1]][key[2]].wildcard[parent] if {
	host != null
	contains(host, ".")
	parent := substring(host, indexof(host, ".") + 1, -1)
	some key in keys
}

places contains release.services[name].tables[key[0]][key[1]][key[2]].unknown if {
	host == null
	some key in keys
}

path_text := concat("/", path) if path != null

path_prefixes := {concat("/", array.slice(path, 0, place)) |
	some place
	path[place]
} if {
	path != null
}

candidates contains rank if {
	some place in places
	some rank in release.services[name].places[place].always
}

candidates contains rank if {
	path == null
	some place in places
	some rank in release.services[name].places[place].unknown
}

candidates contains rank if {
	some place in places
	some rank in release.services[name].places[place].exact[path_text]
}

candidates contains rank if {
	some place in places
	some prefix in path_prefixes
	some rank in release.services[name].places[place].below[prefix]
}

candidates contains rank if {
	some place in places
	some prefix in path_prefixes
	some template in release.services[name].places[place].templates[prefix]
	fits(template)
	some rank in template.grants
}

fits(template) if {
	long_enough(template)
	every place, segment in template.segments {
		segment_fits(segment, path[place])
	}
}

long_enough(template) if {
	template.subtree
	count(path) > count(template.segments)
}

long_enough(template) if {
	not template.subtree
	count(path) == count(template.segments)
}

segment_fits(segment, text) if segment.literal == text

segment_fits(segment, text) if {
	segment.any
	text != ""
}

segment_fits(segment, text) if regex.match(segment.pattern, text)

# -- what matches, and what decides: the lowest rank of each tier, and of those the first that does not pass

matching contains rank if {
	some rank in candidates
	applies(release.services[name].grants[rank])
}

winners[tier] := min(ranks) if {
	some tier in [0, 1, 2]
	ranks := [rank | some rank in matching; release.services[name].grants[rank].tier == tier]
	count(ranks) > 0
}

ending := [rank | some rank in winners; release.services[name].grants[rank].effect != "pass"]

deciding := min(ending) if count(ending) > 0

applies(grant) if {
	grant.effect == "allow"
	declared
	alive(grant)
	all_hold(grant) == true
	exempt(grant) == false
}

applies(grant) if {
	grant.effect != "allow"
	all_hold(grant) != false
	exempt(grant) != true
}

alive(grant) if not grant.until

alive(grant) if {
	input.time != null
	input.time < grant.until
}

all_hold(grant) := holds(grant.when) if {
	grant.when
} else := true

exempt(grant) := all_of(callers | conditions) if {
	grant.unless
	callers := {among(grant.unless.from) | grant.unless.from}
	conditions := {holds(grant.unless.when) | grant.unless.when}
} else := false

among(callers) := false if {
	input.source == null
} else if {
	callers.any
} else if {
	callers.exact[input.source]
} else if {
	some prefix in above
	callers.below[prefix]
} else := null if {
	callers.incomplete
} else := false

# -- conditions, in three values

all_of(truths) := false if {
	false in truths
} else := null if {
	null in truths
} else := true

holds(when) := all_of(((((claims | headers) | peers) | forwarded) | (hours | custom))) if {
	claims := {claims_hold(when.claims) | when.claims}
	headers := {header_holds(header, when.headers[header]) |
		some header
		when.headers[header]
	}
	peers := {within(input.peer_ip_key, when.peer_ip) | when.peer_ip}
	forwarded := {forwarded_within(when.forwarded_ip) | when.forwarded_ip}
	hours := {hours_hold(when.hours) | when.hours}
	custom := {custom_holds(when.rego) | when.rego}
}

claims_hold(condition) := null if {
	not parsed
} else := null if {
	"claims" in input.unknown
} else := false if {
	input.claims == null
} else := false if {
	claim_holds("iss", [condition.issuer]) == false
} else := all_of({claim_holds("iss", [condition.issuer])} | named) if {
	named := {claim_holds(claim, condition.values[claim]) |
		some claim
		condition.values[claim]
	}
}

claim_holds(claim, allowed) := null if {
	concat(".", ["claims", claim]) in input.unknown
} else := false if {
	object.get(input.claims, claim, "absent") == "absent"
} else := null if {
	input.claims[claim] == null
} else if {
	some value in input.claims[claim]
	value in allowed
} else := false

header_holds(header, allowed) := null if {
	not parsed
} else := null if {
	"headers" in input.unknown
} else := null if {
	concat(".", ["headers", header]) in input.unknown
} else := null if {
	header in ambiguous_headers
} else := false if {
	not input.headers[header]
} else := null if {
	input.headers[header].value == null
} else if {
	input.headers[header].value in allowed
} else := false

within(key, ranges) := null if {
	key == null
} else if {
	some span in ranges
	span[0] <= key
	key <= span[1]
} else := false

forwarded_within(ranges) := within(input.forwarded_ip_key, ranges) if {
	input.forwarded_ip_key != ""
} else := false if {
	parsed
} else := null

hours_hold(hours) := null if {
	input.time == null
} else := in_window(hours, (((clock[0] * 60) + clock[1]) * 60) + clock[2]) if {
	clock := time.clock([input.time, hours.tz])
} else := null

in_window(hours, second) if {
	hours.start < hours.end
	hours.start <= second
	second < hours.end
} else if {
	hours.start > hours.end
	second >= hours.start
} else if {
	hours.start > hours.end
	second < hours.end
} else := false

custom_holds(rule) if {
	data.limen.custom.value[rule] == true
} else := false if {
	data.limen.custom.value[rule] == false
} else := null
