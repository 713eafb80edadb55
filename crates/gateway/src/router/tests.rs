use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::config::{Condition, Match, Route};

type Header = (&'static str, &'static str);

/// A request in a line: `GET shop.example/cart?a=1`.
fn query<'q>(line: &'q str, header: &'q dyn Fn(&str) -> Option<&'static [u8]>) -> Query<'q, 'static> {
    let (method, target) = line.split_once(' ').unwrap();
    let (host, rest) = target.split_at(target.find('/').unwrap());
    let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
    Query { host, method, path, query, header, identity: &[] }
}

fn no_header(_: &str) -> Option<&'static [u8]> {
    None
}

fn route(host: &str, path: &str) -> Route {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let matches = Match { host: given(host), path: given(path), ..Match::default() };
    Route { matches, service: Some("s".into()), ..Route::default() }
}

fn built(routes: &[Route]) -> Router {
    Router::build(routes, |_| Some(0)).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// The name of the route that takes a request, or why none does.
fn taker(router: &Router, line: &str) -> String {
    taker_with(router, line, &[])
}

fn taker_with(router: &Router, line: &str, headers: &[Header]) -> String {
    let header = |name: &str| headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_bytes());
    match router.find(&query(line, &header)) {
        Ok(found) => found.route.name.to_string(),
        Err(NotFound::NoRoute) => "none".to_owned(),
        Err(NotFound::MethodNotAllowed(methods)) => format!("allow: {methods}"),
    }
}

#[test]
fn a_subtree_is_its_slash_and_below_only() {
    let router = built(&[route("", "/cart/"), route("", "/exact"), route("", "/dir/{$}")]);
    for (line, expected) in [
        ("GET x/cart/", "/cart/"),
        ("GET x/cart/a/b", "/cart/"),
        ("GET x/cart", "none"),
        ("GET x/cartoon", "none"),
        ("GET x/exact", "/exact"),
        ("GET x/exact/", "none"),
        ("GET x/dir/", "/dir/{$}"),
        ("GET x/dir/a", "none"),
        ("GET x/dir", "none"),
        ("GET x/Cart/", "none"),
    ] {
        assert_eq!(taker(&router, line), expected, "{line}");
    }
}

#[test]
fn the_most_specific_path_wins_whatever_the_order() {
    let mut routes: Vec<_> = ["/", "/a/", "/a/{x}", "/a/b", "/a/{x}/c", "/a/b/{rest...}", "/{y}/b"]
        .map(|path| route("", path))
        .into();
    for _ in 0..2 {
        let router = built(&routes);
        for (line, expected) in [
            ("GET x/a/b", "/a/b"),
            ("GET x/a/z", "/a/{x}"),
            ("GET x/a/z/c", "/a/{x}/c"),
            ("GET x/a/b/c", "/a/b/{rest...}"),
            ("GET x/a/z/d", "/a/"),
            ("GET x/q/b", "/{y}/b"),
            ("GET x/q/c", "/"),
            ("OPTIONS x/", "/"),
        ] {
            assert_eq!(taker(&router, line), expected, "{line}");
        }
        routes.reverse();
    }
}

#[test]
fn hosts_are_tried_from_exact_to_any() {
    let router = built(&[
        route("", "/"),
        route("*.example", "/"),
        route("*.shop.example", "/"),
        route("a.shop.example", "/only"),
        route("[::1]", "/"),
    ]);
    for (line, expected) in [
        ("GET a.shop.example/only", "a.shop.example/only"),
        ("GET A.Shop.EXAMPLE:8080/only", "a.shop.example/only"),
        ("GET a.shop.example./only", "a.shop.example/only"),
        ("GET a.shop.example/else", "*.shop.example/"),
        ("GET b.a.shop.example/", "*.shop.example/"),
        ("GET shop.example/", "*.example/"),
        ("GET example/", "/"),
        ("GET notshop.example/", "*.example/"),
        ("GET [::1]:80/", "[::1]/"),
        ("GET /", "/"),
    ] {
        assert_eq!(taker(&router, line), expected, "{line}");
    }
    let long = format!("GET {}.shop.example/", vec!["a"; 5_000].join("."));
    assert_eq!(taker(&router, &long), "/");
}

#[test]
fn conditions_are_tried_most_first_then_in_order_and_passed_over() {
    let named = |name: &str, mut route: Route| {
        route.name = Some(name.into());
        route
    };
    let mut beta = named("beta", route("", "/cart/"));
    beta.matches.headers.insert("X-Beta".into(), Condition::Exact("1".into()));
    let mut both = named("both", beta.clone());
    both.matches.query.insert("v".into(), Condition::Present(true));
    let mut late = named("late", route("", "/cart/"));
    late.matches.headers.insert("x-late".into(), Condition::Present(true));
    let mut post = named("post", route("", "/cart/pay"));
    post.matches.methods = vec!["POST".into()];
    let router = built(&[named("plain", route("", "/cart/")), late, beta, both, post]);
    let takes = |line: &str, headers: &[Header]| taker_with(&router, line, headers);
    assert_eq!(takes("GET x/cart/", &[]), "plain");
    assert_eq!(takes("GET x/cart/", &[("x-beta", "1")]), "beta");
    assert_eq!(takes("GET x/cart/?v=1", &[("x-beta", "1")]), "both");
    assert_eq!(takes("GET x/cart/", &[("x-beta", "1"), ("x-late", "")]), "late");
    assert_eq!(takes("POST x/cart/pay", &[]), "post");
    assert_eq!(takes("GET x/cart/pay", &[]), "plain");
}

#[test]
fn a_method_is_refused_only_when_nothing_else_takes_the_request() {
    let with = |methods: &[&str], mut route: Route| {
        route.matches.methods = methods.iter().map(|method| (*method).to_owned()).collect();
        route
    };
    let routes = [with(&["PUT", "DELETE"], route("", "/a")), with(&["GET"], route("h", "/a"))];
    let router = built(&routes);
    assert_eq!(taker(&router, "POST h/a"), "allow: DELETE, GET, HEAD, PUT");
    assert_eq!(taker(&router, "POST x/a"), "allow: DELETE, PUT");
    assert_eq!(taker(&router, "HEAD h/a"), "GET h/a");
    assert_eq!(taker(&router, "get h/a"), "allow: DELETE, GET, HEAD, PUT");
    assert_eq!(taker(&router, "POST x/b"), "none");
    let router = built(&[&routes[..], &[route("", "/")]].concat());
    assert_eq!(taker(&router, "POST h/a"), "/");
}

#[test]
fn no_spelling_passes_a_route() {
    let router = built(&[route("", "/"), route("", "/admin/"), route("", "/@me"), route("", "/café")]);
    for (path, expected) in [
        ("/%61dmin/x", "/admin/"),
        ("//admin//x", "/admin/"),
        ("/x/..//./admin/", "/admin/"),
        ("/%40me", "/@me"),
        ("/@%6de", "/@me"),
        ("/caf%c3%a9", "/café"),
        ("/caf%C3%A9", "/café"),
    ] {
        let mut scratch = String::new();
        let path = path::normalise(path, &mut scratch).unwrap();
        let query = Query { host: "x", method: "GET", path, query: None, header: &no_header, identity: &[] };
        assert_eq!(&*router.find(&query).unwrap().route.name, expected, "{path}");
    }
}

#[test]
fn captures_are_what_the_variables_stand_for() {
    let router = built(&[route("", "/u/{id}/f/{path...}"), route("", "/o/{id}/x")]);
    let captured = |line: &str| {
        let query = query(line, &no_header);
        let captures = router.find(&query).unwrap().captures;
        [0, 1, 2].map(|index| captures.get(index, query.path).to_owned())
    };
    assert_eq!(captured("GET x/u/7/f/a/b"), ["7", "a/b", ""]);
    assert_eq!(captured("GET x/u/7/f/"), ["7", "", ""]);
    assert_eq!(captured("GET x/o/é/x"), ["é", "", ""]);
}

fn rewritten(path: &str, rewrite: config::Rewrite, line: &str) -> String {
    let router = built(&[Route { rewrite, ..route("", path) }]);
    let query = query(line, &no_header);
    let found = router.find(&query).unwrap();
    let mut out = Vec::new();
    found.route.write_path(query.path, &found.captures, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn paths_are_rewritten_as_documented() {
    let prefix = |text: &str| config::Rewrite { prefix: Some(text.into()), ..config::Rewrite::default() };
    let whole = |text: &str| config::Rewrite { path: Some(text.into()), ..config::Rewrite::default() };
    assert_eq!(rewritten("/shop/", prefix("/"), "GET x/shop/cart"), "/cart");
    assert_eq!(rewritten("/shop/", prefix("/v2"), "GET x/shop/cart/"), "/v2/cart/");
    assert_eq!(rewritten("/shop/", prefix("/v2"), "GET x/shop/"), "/v2");
    assert_eq!(rewritten("/shop", prefix("/v2"), "GET x/shop"), "/v2");
    assert_eq!(rewritten("", prefix("/v2/"), "GET x/shop"), "/v2/shop");
    assert_eq!(rewritten("/u/{id}/o/", prefix("/x/"), "GET x/u/7/o/a/b"), "/x/a/b");
    assert_eq!(rewritten("/u/{id}/f/{p...}", whole("/{p...}/of/{id}"), "GET x/u/7/f/a/b"), "/a/b/of/7");
    assert_eq!(rewritten("/f/{p...}", whole("/{p}/x"), "GET x/f/"), "/x");
    assert_eq!(rewritten("/f/{p...}", config::Rewrite::default(), "GET x/f/a%20b"), "/f/a%20b");
}

fn redirect(to: &str) -> Route {
    let redirect = Some(config::Redirect { to: to.into(), status: 308 });
    Route { service: None, redirect, ..route("", "/u/{id}/{rest...}") }
}

fn location(to: &str, line: &str) -> String {
    let router = built(&[redirect(to)]);
    let query = query(line, &no_header);
    let found = router.find(&query).unwrap();
    let CompiledAction::Redirect(redirect) = &found.route.action else { panic!("a redirect") };
    let mut out = Vec::new();
    redirect.write_fields(query.path, query.query, &found.captures, &mut out);
    String::from_utf8(out).unwrap().strip_suffix("\r\ncontent-length: 0\r\n").unwrap().to_owned()
}

#[test]
fn redirects_go_where_the_configuration_says() {
    assert_eq!(
        location("https://new.example{path}", "GET x/u/7/a?b=1"),
        "location: https://new.example/u/7/a?b=1"
    );
    assert_eq!(location("{path}", "GET x/u/7/a?"), "location: /u/7/a?");
    assert_eq!(location("/v2/{id}?rest={rest}", "GET x/u/7/a/b?b"), "location: /v2/7?rest=a/b");
}

#[test]
fn redirects_cannot_be_led_to_another_host() {
    assert_eq!(location("/{rest}/{id}", "GET x/u/evil.example/"), "location: /evil.example");
    assert_eq!(location("/{rest}", "GET x/u/7//evil.example"), "location: /evil.example");
    for to in [
        "https://{id}/",
        "https://new.example{id}",
        "https://new.{id}/",
        "{id}",
        "//{id}",
        "https:{id}",
        "javascript:{id}",
        "https://user@new.example/",
        "//evil.example/",
        "new.example",
        "",
        "/a\r\nx: y",
        "/a b",
        "/é",
        "/{unknown}",
        "/{id",
        "ftp://a/",
    ] {
        let problems = Router::build(&[redirect(to)], |_| Some(0)).expect_err(to);
        assert_eq!(problems.len(), 1, "{to}: {problems:?}");
    }
}

#[test]
fn answers_are_made_ready() {
    let mut params = Route { service: None, ..route("", "/") };
    params.answer =
        Some(config::FixedAnswer { status: 404, body: "gone".into(), content_type: "text/plain".into() });
    params.response_headers.set.insert("Cache-Control".into(), "no-store".into());
    let router = built(&[params]);
    let CompiledAction::Answer(answer) = &router.routes()[0].action else { panic!("an answer") };
    assert_eq!((answer.status(), answer.body()), (404, &b"gone"[..]));
    let fields = "content-type: text/plain\r\ncontent-length: 4\r\ncache-control: no-store\r\n";
    assert_eq!(answer.fields(), fields.as_bytes());
}

#[test]
fn routes_that_match_the_same_requests_are_refused_by_name() {
    let mut named = route("SHOP.example", "/u/{name}");
    named.name = Some("users".into());
    let problems = Router::build(&[route("shop.example", "/u/{id}"), named], |_| Some(0)).unwrap_err();
    expect!["routes[1].match: the routes `shop.example/u/{id}` (routes[0]) and `users` (routes[1]) match the same requests; take one out, or give one a condition that the other lacks"]
        .assert_eq(&problems[0].to_string());
    assert!(Router::build(&[route("", "/"), route("", "")], |_| Some(0)).is_err());
    assert!(Router::build(&[route("", "/a/"), route("", "/a/{x...}")], |_| Some(0)).is_err());
    assert!(Router::build(&[route("", "/a/"), route("", "/a/{$}"), route("", "/a")], |_| Some(0)).is_ok());
}

#[test]
fn every_problem_of_every_route_is_reported_at_its_place() {
    let mut odd = route("*", "cart");
    odd.matches.methods = vec!["get".into()];
    odd.matches.headers.insert("x y".into(), Condition::Present(true));
    odd.request_headers.set.insert("host".into(), "x".into());
    odd.rewrite.prefix = Some("cart".into());
    odd.redirect = Some(config::Redirect { to: "/".into(), status: 308 });
    let unknown = Route { service: Some("crt".into()), ..route("", "/") };
    let places: Vec<_> = Router::build(&[odd, unknown], |_| None)
        .unwrap_err()
        .iter()
        .map(|problem| problem.to_string().split(": ").next().unwrap().to_owned())
        .collect();
    expect![[r#"
        [
            "routes[0].match.methods[0]",
            "routes[0].match.headers.x y",
            "routes[0].match.host",
            "routes[0].match.path",
            "routes[0].request_headers.set.host",
            "routes[0].rewrite.prefix",
            "routes[0]",
            "routes[1].service",
        ]
    "#]]
    .assert_debug_eq(&places);
}

#[test]
fn names_made_of_matches_are_unique() {
    let mut given = route("b", "/");
    given.name = Some("a/".into());
    let mut beta = route("a", "/");
    beta.matches.headers.insert("x".into(), Condition::Present(true));
    let router = built(&[route("a", "/"), beta, given]);
    let names: Vec<_> = router.routes().iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["a/ #2", "a/ #3", "a/"]);
}

#[test]
fn an_explanation_names_winner_and_losers() {
    let mut beta = route("shop.example", "/cart/{id}");
    beta.name = Some("beta".into());
    beta.matches.headers.insert("x-beta".into(), Condition::Exact("1".into()));
    let mut post = route("shop.example", "/cart/");
    post.matches.methods = vec!["POST".into()];
    let router =
        built(&[route("", ""), route("*.example", "/"), post, beta, route("shop.example", "/cart/{item}")]);
    let explain = |line: &str| router.explain(&query(line, &no_header)).to_string();
    expect![[r#"
        route shop.example/cart/{item}
          {item} = 7
        - beta (host shop.example, path /cart/{id}): a condition does not hold
            header x-beta is `1`: no
        + shop.example/cart/{item} (host shop.example, path /cart/{item}): takes the request
        - POST shop.example/cart/ (host shop.example, path /cart/): a condition does not hold
            method is one of POST: no
        - *.example/ (host *.example, path /): its host is less specific
        - / (host any host, path any path): its host is less specific
    "#]]
    .assert_eq(&explain("GET shop.example/cart/7"));
}

/// The rules of the module's documentation, applied to one route after another.
mod reference {
    use super::*;

    fn host_rank(pattern: Option<&str>, host: &str) -> Option<usize> {
        let Some(pattern) = pattern else { return Some(0) };
        match pattern.strip_prefix("*.") {
            Some(name) => host.ends_with(&format!(".{name}")).then(|| 1 + name.split('.').count()),
            None => (pattern == host).then_some(usize::MAX),
        }
    }

    /// Smaller is more specific, segment by segment.
    fn path_rank(pattern: Option<&str>, path: &str) -> Option<Vec<u8>> {
        let pattern: Vec<_> = pattern.unwrap_or("/").split('/').skip(1).collect();
        let path: Vec<_> = path.split('/').skip(1).collect();
        let mut rank = Vec::new();
        for (at, segment) in pattern.iter().enumerate() {
            let own = path.get(at)?;
            match *segment {
                "" | "{r...}" => {
                    rank.push(2);
                    return Some(rank);
                }
                "{$}" => (own.is_empty()).then_some(())?,
                "{v}" | "{w}" => {
                    rank.push(1);
                    (!own.is_empty()).then_some(())?;
                    continue;
                }
                literal => (literal == *own).then_some(())?,
            }
            rank.push(0);
        }
        (pattern.len() == path.len()).then_some(rank)
    }

    pub(super) fn find(routes: &[Route], host: &str, path: &str, method: &str, beta: bool) -> Option<usize> {
        let key = |(index, route): (usize, &Route)| {
            let host = host_rank(route.matches.host.as_deref(), host)?;
            let path = path_rank(route.matches.path.as_deref(), path)?;
            let takes =
                route.matches.methods.is_empty() || route.matches.methods.iter().any(|own| own == method);
            let conditions = usize::from(!route.matches.methods.is_empty()) + route.matches.headers.len();
            (takes && (beta || route.matches.headers.is_empty())).then_some((
                std::cmp::Reverse(host),
                path,
                std::cmp::Reverse(conditions),
                index,
            ))
        };
        routes.iter().enumerate().filter_map(key).min().map(|(_, _, _, index)| index)
    }
}

fn some_route() -> impl Strategy<Value = Route> {
    let host = prop::sample::select(vec!["", "a.b", "b", "*.b", "*.a.b", "c.a.b"]);
    let segment = prop::sample::select(vec!["a", "b", "{v}", "{w}"]);
    let end = prop::sample::select(vec!["", "/", "/{$}", "/{r...}"]);
    let path = (prop::collection::vec(segment, 0..4), end).prop_filter_map("a pattern", |(segments, end)| {
        let path = format!("{}{}{end}", if segments.is_empty() { "" } else { "/" }, segments.join("/"));
        pattern::PathPattern::parse(Some(&path)).ok().map(|_| path)
    });
    (host, path, any::<bool>(), any::<bool>()).prop_map(|(host, path, post, beta)| {
        let mut route = route(host, &path);
        if post {
            route.matches.methods = vec!["POST".into()];
        }
        if beta {
            route.matches.headers.insert("x-beta".into(), Condition::Present(true));
        }
        route
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn finds_what_a_linear_search_finds(
        routes in prop::collection::vec(some_route(), 1..12),
        host in prop::sample::select(vec!["a.b", "b", "c.a.b", "d.c.a.b", "x", ""]),
        path in "/((a|b|c)/){0,4}(a|b|c)?",
        post in any::<bool>(),
        beta in any::<bool>(),
    ) {
        // Routes that match the same requests are refused; the earlier one stays.
        let mut kept = Vec::new();
        for route in routes {
            kept.push(route);
            if Router::build(&kept, |_| Some(0)).is_err() {
                kept.pop();
            }
        }
        let router = built(&kept);
        let method = if post { "POST" } else { "PUT" };
        let header = |name: &str| (beta && name == "x-beta").then_some(&b"1"[..]);
        let query = Query { host, method, path: &path, query: None, header: &header, identity: &[] };
        let found = router.find(&query).ok().map(|found| found.route.index);
        prop_assert_eq!(found, reference::find(&kept, host, &path, method, beta));
        let explained = router.explain(&query);
        prop_assert_eq!(explained.route.map(|winner| winner.index), found);
    }

    #[test]
    fn a_location_is_one_line_on_a_host_that_the_configuration_names(
        to in prop::sample::select(vec!["{path}", "/{rest}/{id}", "/{id}", "/x{rest}", "/{rest}"]),
        path in "/u/[^/]{1,6}/\\PC{0,8}",
        query in "[\\x00-\\x7f]{0,6}",
    ) {
        let router = built(&[redirect(to)]);
        let query = Query { host: "x", method: "GET", path: &path, query: Some(&query), header: &no_header, identity: &[] };
        let found = router.find(&query).unwrap();
        let CompiledAction::Redirect(redirect) = &found.route.action else { panic!("a redirect") };
        let mut out = Vec::new();
        redirect.write_fields(query.path, query.query, &found.captures, &mut out);
        let text = String::from_utf8(out).unwrap();
        let location = text.strip_prefix("location: ").unwrap().strip_suffix("\r\ncontent-length: 0\r\n").unwrap();
        prop_assert!(location.starts_with('/') && !location.starts_with("//") && !location.starts_with("/\\"));
        prop_assert!(location.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}
