# Many decisions in one query: `input.batch` is a list of input documents, `data.limen.batch.decisions` their answers.
package limen.batch

import data.limen.authz

decisions := [answer | some document in input.batch; answer := authz.decision with input as document]
