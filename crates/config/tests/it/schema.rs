//! What is published about the keys.

use expect_test::expect;

use crate::sample::Root;

#[test]
fn the_reference_lists_every_key() {
    expect![[r###"
        ## Root

        A gateway in small.

        | key | type | default | description |
        |---|---|---|---|
        | `labels` | map of string |  | Labels of this process. |
        | `listeners` | list of [Listener](#listener) | `[]` | Where requests come in. |
        | `routes` | list of [Route](#route) | `[]` | Which request goes where. |
        | `services` | map of [Service](#service) |  | The services, by name. |
        | `tags` | list of string | `[]` | Tags, each once. |

        ## Listener

        An address where requests come in.

        | key | type | default | description |
        |---|---|---|---|
        | `address` | string | required | Address and port, such as `0.0.0.0:8080`. Port 0 lets the system choose one. |
        | `connections` | integer from 1 | `1000` | Connections open at once. |

        ## Route

        Which requests, and what becomes of them.

        | key | type | default | description |
        |---|---|---|---|
        | `balance` | [Balance](#balance) |  | The policy of this route. Absent: the service's. |
        | `criticality` | [Criticality](#criticality) |  | The class of requests that name none. |
        | `headers` | map of [Condition](#condition) |  | Conditions on header fields. |
        | `path` | string |  | The path. |
        | `pinned` | [RingHash](#ringhash) |  | What a user is pinned by. |
        | `service` | string |  | The service that answers. |
        | `status` | integer from 0 to 65535 |  | Answers with this status. |

        ## Service

        A service.

        | key | type | default | description |
        |---|---|---|---|
        | `balance` | [Balance](#balance) | `"round_robin"` | Which endpoint gets the next attempt. |
        | `endpoints` | list of [Endpoint](#endpoint) | `[]` | Endpoints, as `host:port` or with a weight. |
        | `head_max` | [ByteSize](#bytesize) | `"0"` | Largest head of an answer. |
        | `panic_below` | number from 0 to 1 | `0.0` | Below this share of available endpoints availability is ignored. |
        | `timeouts` | [Timeouts](#timeouts) |  | How long to wait. |
        | `via` | `true` or `false` | `false` | Whether the `via` header is added. |

        ## Balance

        The balancing policy of a service.

        - `round_robin`: In turn.
        - `random`: At random.
        - `ring_hash:` [RingHash](#ringhash): A ring hash of a request's key.

        ## Criticality

        How much a request matters, most important first. A lower class is always shed before a higher one.

        Source: SRE book, ch. 21. The order of the variants is the order of importance, so `a < b` reads
        "`a` matters more than `b`".

        - `CRITICAL_PLUS`: Failing it hurts users badly and at once.
        - `CRITICAL`: Failing it is visible to users. The default of interactive traffic.
        - `SHEDDABLE_PLUS`: Partial unavailability is expected and retried. The default of batch jobs.
        - `SHEDDABLE`: Frequent partial and occasional full unavailability is expected.

        ## Condition

        A condition on a value.

        - `exact:` string: The value is this.
        - `any_of:` list of string: The value is one of these.
        - `present:` `true` or `false`: There is a value, or there is none.

        ## RingHash

        A consistent-hash ring.

        | key | type | default | description |
        |---|---|---|---|
        | `header` | string | required | The header that is hashed. |
        | `load_bound` | number | `0.0` | The bound on an endpoint's load. |
        | `points` | integer from 0 | `0` | Points on the ring. |

        ## Endpoint

        One endpoint: `host:port`, or a map with `address` and `weight`.

        - string
        - a map

        | key | type | default | description |
        |---|---|---|---|
        | `address` | string | required | Host and port. |
        | `weight` | integer from 0 | `1` |  |

        ## ByteSize

        A number of bytes, such as 512, 16KiB or 1MiB.

        ## Timeouts

        How long to wait.

        | key | type | default | description |
        |---|---|---|---|
        | `connect` | [Span](#span) | `"1s"` | For a connection. |
        | `idle` | [Span](#span) |  | For an unused connection. Absent: for ever. |
        | `request` | [Span](#span) | `"30s"` | For the whole request. |

        ## Span

        A length of time with its unit, such as 250ms, 10s or 1m30s.
    "###]].assert_eq(&config::reference::<Root>());
}

#[test]
fn the_schema_is_closed_and_titled() {
    let schema = config::schema::<Root>();
    assert_eq!(schema["title"], "Root");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema.get("$id"), None);
}
