//! The gRPC listener over TLS, as clients on a network meet it: who may do what with which
//! token or certificate, what is refused before a word is said, and the command line as
//! one of those clients.

use crate::harness::engine::Builder;
use crate::harness::{Certificates, Engine, Output, Postgres, Redis, logs, python, unique};
use crate::world::{LEDGER, config, fill};

const SERVICE: &str = "kasho.ChangeStreamService";

/// An engine between servers of its own, its listener furnished by `grpc`.
struct Site {
    engine: Engine,
    certificates: Certificates,
    _servers: (Postgres, Redis),
}

impl Site {
    /// `grpc`: lines of the section, with `{name.pem}` for the path of a file.
    async fn start(grpc: &str) -> Site {
        let (pg, redis) = tokio::join!(Postgres::start(), Redis::start());
        pg.sql(LEDGER).await;
        fill(&pg, 1, 10).await;
        let certificates = Certificates::make();
        let builder = Engine::builder();
        let more = filled(grpc, &certificates);
        let text = config(&pg.url(), &redis.url(), builder.home().grpc_port(), &more);
        let engine = builder.config(&text).start();
        engine.wait_for("gRPC is listening").await;
        engine.wait_for("ready state=").await;
        Site { engine, certificates, _servers: (pg, redis) }
    }

    fn port(&self) -> u16 {
        self.engine.home().grpc_port()
    }

    /// A call by Python's grpcio; `files` are its authorities, certificate and key.
    async fn call(&self, method: &str, token: &str, files: &[&str]) -> Output {
        let address = format!("localhost:{}", self.port());
        let method =
            if method.contains('/') { method.to_owned() } else { format!("{SERVICE}/{method}") };
        let files: Vec<String> = files.iter().map(|name| self.certificates.path(name)).collect();
        let files = files.iter().map(String::as_str);
        let arguments: Vec<&str> =
            [&address, &method, "{}", "1", token].into_iter().chain(files).collect();
        let output = python(include_str!("grpcurl.py"), &arguments).await;
        output.search("grpcurl");
        output
    }

    /// `kasho status --json` with these options.
    async fn status(&self, options: &[&str]) -> Output {
        self.engine.run(&[&["status", "--json"], options].concat()).await
    }

    async fn state(&self, token: &str) -> String {
        let status = self.call("GetStatus", token, &["ca.pem"]).await.success();
        let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
        status["state"].as_str().expect("state").to_owned()
    }
}

fn filled(grpc: &str, certificates: &Certificates) -> String {
    ["ca.pem", "server.pem", "server.key", "client.pem", "other.pem", "other.key"]
        .iter()
        .fold(grpc.to_owned(), |text, name| {
            text.replace(&format!("{{{name}}}"), &certificates.path(name))
        })
}

fn says(output: &Output, code: i32, words: &[&str]) {
    let text = format!("{}{}", output.stdout, output.stderr);
    assert_eq!(output.code, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no word of {word:?} in:\n{text}");
    }
}

/// A token that nobody may say aloud.
fn token() -> String {
    logs::planted(format!("token-{}", unique()))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_allows_what_it_is_for() {
    let (reader, admin) = (token(), token());
    let site = Site::start(&format!(
        "tls_cert = \"{{server.pem}}\"\ntls_key = \"{{server.key}}\"\n\
         read_token = \"{reader}\"\nadmin_token = \"{admin}\"\n"
    ))
    .await;
    let tls = ["ca.pem"];
    let methods = [
        "GetStatus",
        "Stream",
        "Ack",
        "StartBootstrap",
        "CompleteBootstrap",
        "AbortBootstrap",
        "AcceptPlugin",
        "DecideDdl",
        "change_stream.ChangeStream/GetStatus",
        "change_stream.ChangeStream/Stream",
        "change_stream.ChangeStream/StartBootstrap",
        "change_stream.ChangeStream/AbortBootstrap",
    ];
    for method in methods {
        says(&site.call(method, "", &tls).await, 1, &["UNAUTHENTICATED", "Bearer"]);
    }
    says(&site.call("GetStatus", "wrong", &tls).await, 1, &["UNAUTHENTICATED", "wrong"]);
    for method in
        ["StartBootstrap", "CompleteBootstrap", "AbortBootstrap", "AcceptPlugin", "DecideDdl"]
    {
        let refused = site.call(method, &reader, &tls).await;
        says(&refused, 1, &["PERMISSION_DENIED", "grpc.admin_token"]);
    }
    assert_eq!(site.state(&reader).await, "WAITING", "what was refused did nothing");
    says(&site.call("StartBootstrap", &admin, &tls).await, 0, &["ACCUMULATING"]);
    assert_eq!(site.state(&admin).await, "ACCUMULATING");

    // In clear text, and to a server that somebody else vouches for, nothing is said.
    says(&site.call("GetStatus", &admin, &[]).await, 1, &["UNAVAILABLE"]);
    says(&site.call("GetStatus", &admin, &["other.pem"]).await, 1, &["UNAVAILABLE"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_asked_for_and_enough() {
    let site = Site::start(
        "tls_cert = \"{server.pem}\"\ntls_key = \"{server.key}\"\nclient_ca = \"{ca.pem}\"\n",
    )
    .await;
    let known = ["ca.pem", "client.pem", "client.key"];
    says(&site.call("GetStatus", "", &["ca.pem"]).await, 1, &["UNAVAILABLE"]);
    let strange = ["ca.pem", "other.pem", "other.key"];
    says(&site.call("GetStatus", "", &strange).await, 1, &["UNAVAILABLE"]);
    says(&site.call("GetStatus", "", &known).await, 0, &["WAITING"]);
    says(&site.call("StartBootstrap", "", &known).await, 0, &["ACCUMULATING"]);

    let (cert, key) = (site.certificates.path("client.pem"), site.certificates.path("client.key"));
    let own = ["--cert", cert.as_str(), "--key", key.as_str()];
    says(&site.status(&own).await, 0, &["ACCUMULATING"]);
    says(&site.status(&[]).await, 1, &["client certificate", "--cert", "--key"]);
    says(&site.status(&own[..2]).await, 2, &["--key"]);
    let (cert, key) = (site.certificates.path("other.pem"), site.certificates.path("other.key"));
    let strange = site.status(&["--cert", &cert, "--key", &key]).await;
    says(&strange, 1, &["client certificate", "grpc.client_ca"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_or_a_certificate_will_do_where_both_are_configured() {
    let (reader, admin) = (token(), token());
    let site = Site::start(&format!(
        "tls_cert = \"{{server.pem}}\"\ntls_key = \"{{server.key}}\"\nclient_ca = \"{{ca.pem}}\"\n\
         read_token = \"{reader}\"\nadmin_token = \"{admin}\"\n"
    ))
    .await;
    let known = ["ca.pem", "client.pem", "client.key"];
    says(&site.call("GetStatus", "", &["ca.pem"]).await, 1, &["UNAUTHENTICATED"]);
    let strange = ["ca.pem", "other.pem", "other.key"];
    says(&site.call("GetStatus", &admin, &strange).await, 1, &["UNAVAILABLE"]);
    says(&site.call("GetStatus", &reader, &["ca.pem"]).await, 0, &["WAITING"]);
    says(&site.call("StartBootstrap", "", &known).await, 0, &["ACCUMULATING"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_speaks_tls() {
    let admin = token();
    let site = Site::start(&format!(
        "tls_cert = \"{{server.pem}}\"\ntls_key = \"{{server.key}}\"\nadmin_token = \"{admin}\"\n"
    ))
    .await;
    let (ca, other) = (site.certificates.path("ca.pem"), site.certificates.path("other.pem"));
    let by_name = format!("https://localhost:{}", site.port());
    let by_number = format!("https://127.0.0.1:{}", site.port());
    let in_clear = format!("http://localhost:{}", site.port());

    // With the engine's own file nothing need be said, though the certificate is made out
    // to another name than 127.0.0.1.
    says(&site.engine.run(&["bootstrap", "--yes"]).await, 0, &[]);
    says(&site.status(&[]).await, 0, &["STREAMING"]);

    let far = ["--token", admin.as_str(), "--address"];
    let far = |more: &[&'_ str]| {
        [&far[..], more].concat().iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()
    };
    for (options, code, words) in [
        (far(&[&by_name, "--ca", &ca]), 0, vec!["STREAMING"]),
        (far(&[&by_number, "--ca", &ca]), 1, vec!["TLS", "--server-name"]),
        (far(&[&by_number, "--ca", &ca, "--server-name", "localhost"]), 0, vec!["STREAMING"]),
        (far(&[&by_name, "--ca", &other]), 1, vec!["TLS", "--ca"]),
        (far(&[&by_name]), 1, vec!["--ca"]),
        (far(&[&by_name, "--ca", "/nowhere.pem"]), 1, vec!["--ca /nowhere.pem"]),
        (far(&[&in_clear]), 1, vec!["https://"]),
        (vec!["--address".into(), by_name.clone(), "--ca".into(), ca.clone()], 1, vec!["token"]),
    ] {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        says(&site.status(&options).await, code, &words);
    }
    let wrong = ["--address", &by_name, "--ca", &ca, "--token", "wrong"];
    says(&site.status(&wrong).await, 1, &["the token is wrong"]);
    let reset = ["reset", "--yes", "--address", &by_name, "--ca", &ca, "--token", &admin];
    says(&site.engine.run(&reset).await, 0, &["WAITING"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_known_by_itself() {
    let admin = token();
    let site = Site::start(&format!(
        "tls_cert = \"{{other.pem}}\"\ntls_key = \"{{other.key}}\"\nadmin_token = \"{admin}\"\n"
    ))
    .await;
    says(&site.status(&[]).await, 0, &["WAITING"]);
    let address = format!("https://localhost:{}", site.port());
    let ca = site.certificates.path("other.pem");
    let far = ["--address", &address, "--token", &admin, "--ca", &ca, "--server-name", "other"];
    says(&site.status(&far).await, 1, &["--server-name"]);
}

/// An engine whose file says this of its listener.
fn listening(certificates: &Certificates, grpc: &str) -> Builder {
    let text = format!(
        "[source]\nurl = \"postgres://u@127.0.0.1:1/d\"\n[redis]\nurl = \"redis://127.0.0.1:1\"\n\
         [grpc]\n{}",
        filled(grpc, certificates)
    );
    Engine::builder().config(&text)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_the_network_is_refused_without_tls_and_credentials() {
    let certificates = Certificates::make();
    let tls = "tls_cert = \"{server.pem}\"\ntls_key = \"{server.key}\"\n";
    let admin = "admin_token = \"something-secret\"\n";
    let clients = "client_ca = \"{ca.pem}\"\n";
    for listen in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1"] {
        let at = format!("listen = \"{listen}\"\n");
        for (more, word) in [
            (String::new(), "without TLS"),
            (admin.to_owned(), "without TLS"),
            (tls.to_owned(), "nobody is asked who he is"),
        ] {
            let engine = listening(&certificates, &format!("{at}{more}")).build();
            // Before anything is listened on or any server asked: both are not there.
            let output = engine.run(&["run"]).await;
            says(&output, 1, &[listen, word, "grpc.insecure = true"]);
        }
        for more in
            [format!("{tls}{admin}"), format!("{tls}{clients}"), "insecure = true\n".to_owned()]
        {
            let engine = listening(&certificates, &format!("{at}{more}")).build();
            says(&engine.run(&["config", "check"]).await, 0, &["right"]);
        }
    }
}
