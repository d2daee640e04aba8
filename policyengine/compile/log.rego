# What leaves an OPA's decision log, in OPA's own convention. It is not at `system.log.mask`, which is the user's:
# `package system.log` with `mask := data.limen.log.mask` uses it. What Limen's own records drop or hash is removed.
package limen.log

removed := "[removed]"

mask contains "/input/token" if asked

mask contains "/input/batch" if asked

mask contains {"op": "upsert", "path": "/input/headers", "value": headers} if {
	asked
	input.input.headers
}

mask contains {"op": "upsert", "path": "/input/claims", "value": claims} if {
	asked
	is_object(input.input.claims)
}

asked if startswith(input.path, "limen/")

headers[name] := {"value": removed, "single": header.single} if {
	some name
	header := input.input.headers[name]
	is_secret(name)
}

headers[name] := header if {
	some name
	header := input.input.headers[name]
	not is_secret(name)
}

claims[name] := removed if {
	some name
	input.input.claims[name]
	is_secret(name)
}

claims[name] := value if {
	some name
	value := input.input.claims[name]
	not is_secret(name)
}

is_secret(name) if plain(name) in names

is_secret(name) if {
	some end in ends
	endswith(plain(name), end)
}

plain(name) := replace(lower(name), "_", "-")

names := {
	"api-key",
	"authorization",
	"cookie",
	"email",
	"key",
	"passwd",
	"password",
	"preferred-username",
	"proxy-authorization",
	"secret",
	"session",
	"session-id",
	"set-cookie",
	"sub",
	"token",
	"x-api-key",
}

ends := {
	"-api-key",
	"-authorization",
	"-cookie",
	"-jwt",
	"-password",
	"-private-key",
	"-secret",
	"-token",
}
