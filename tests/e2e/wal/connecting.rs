//! Sockets, TLS, channel binding, several hosts: for SQL and replication alike.

use kasho::error::Class;
use kasho::source::SourceError;
use kasho::source::conninfo::{Conninfo, sql_connect};
use kasho::source::wal::ReplSession;

use super::{make_slot, options, prepare, rows};
use crate::harness::{Certificates, Postgres, free_port, unique};

async fn tls_server(certificates: &Certificates) -> Postgres {
    Postgres::builder()
        .file("server.crt", certificates.read("server.pem"))
        .file("server.key", certificates.read("server.key"))
        .file("root.crt", certificates.read("ca.pem"))
        .setting("ssl", "on")
        .setting("ssl_ca_file", "root.crt")
        .hba("hostssl all certain 127.0.0.1/32 cert")
        .hba("hostnossl all plain_only 127.0.0.1/32 scram-sha-256")
        .hba("hostssl all plain_only 127.0.0.1/32 reject")
        .hba("hostnossl all tls_only 127.0.0.1/32 reject")
        .start()
        .await
}

/// Whether SQL and replication sessions of this URL stand, and over TLS.
async fn both(url: &str) -> Result<bool, SourceError> {
    let info = Conninfo::parse(url).unwrap();
    let client = sql_connect(&info, "both").await?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let over_tls: bool = client.query_one(sql, &[]).await.unwrap().get(0);
    // The one before may still be on its way out.
    let name = format!("both {}", unique());
    let mut session = ReplSession::connect(&info, &name).await?;
    session.identify_system().await?;
    let sql = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_replication USING (pid) \
               WHERE application_name = $1";
    assert_eq!(client.query_one(sql, &[&name]).await.unwrap().get::<_, bool>(0), over_tls);
    Ok(over_tls)
}

#[tokio::test]
async fn sslmode_means_what_it_says() {
    let certificates = Certificates::make();
    let server = tls_server(&certificates).await;
    server.sql("CREATE ROLE plain_only SUPERUSER LOGIN PASSWORD 'pw'").await;
    server.sql("CREATE ROLE tls_only SUPERUSER LOGIN PASSWORD 'pw'").await;
    let root = certificates.path("ca.pem");
    let localhost = server.url().replace("@127.0.0.1", "@localhost");
    let pinned = format!("{}?hostaddr=127.0.0.1", localhost);
    assert!(!both(&format!("{}?sslmode=disable", server.url())).await.unwrap());
    assert!(!both(&format!("{}?sslmode=allow", server.url())).await.unwrap());
    assert!(both(&server.url()).await.unwrap());
    assert!(both(&format!("{}?sslmode=require", server.url())).await.unwrap());
    assert!(both(&format!("{}?sslmode=verify-ca&sslrootcert={root}", server.url())).await.unwrap());
    assert!(both(&format!("{pinned}&sslmode=verify-full&sslrootcert={root}")).await.unwrap());
    // The server's own certificate as the root, as self-signed ones are used.
    let own = certificates.path("server.pem");
    assert!(both(&format!("{pinned}&sslmode=verify-full&sslrootcert={own}")).await.unwrap());
    let other = certificates.path("other.pem");
    for refused in [
        format!("{}?sslmode=verify-full&sslrootcert={root}", server.url()),
        format!("{}?sslmode=verify-full&sslrootcert={own}", server.url()),
        format!("{}?sslmode=verify-ca&sslrootcert={other}", server.url()),
        format!("{}?sslmode=verify-ca&sslrootcert=/nowhere.pem", server.url()),
    ] {
        let error = both(&refused).await.unwrap_err();
        assert!(matches!(error, SourceError::Tls { .. }), "{error}");
        assert_eq!(error.class(), Class::Halt);
    }
    // pg_hba.conf wants the other kind than was tried first.
    assert!(!both(&server.url_as("plain_only", "pw")).await.unwrap());
    assert!(both(&format!("{}?sslmode=allow", server.url_as("tls_only", "pw"))).await.unwrap());
}

#[tokio::test]
async fn channel_binding_and_client_certificates() {
    let certificates = Certificates::make();
    let server = tls_server(&certificates).await;
    server.sql("CREATE ROLE certain SUPERUSER LOGIN").await;
    let bound = format!("{}?sslmode=require&channel_binding=require", server.url());
    assert!(both(&bound).await.unwrap());
    let unbound = format!("{}?sslmode=disable&channel_binding=require", server.url());
    let error = ReplSession::connect(&Conninfo::parse(&unbound).unwrap(), "x").await.err().unwrap();
    assert!(matches!(error, SourceError::Auth { .. }), "{error}");
    let certain = server.url_as("certain", "");
    let (cert, key) = (certificates.path("client.pem"), certificates.path("client.key"));
    let with = format!("{certain}?sslmode=require&sslcert={cert}&sslkey={key}");
    assert!(both(&with).await.unwrap());
    assert!(both(&format!("{certain}?sslmode=require")).await.is_err());
}

#[tokio::test]
async fn a_stream_over_tls_carries_bulk_and_single_rows() {
    let certificates = Certificates::make();
    let server = tls_server(&certificates).await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY, t text)").await;
    let bound = format!("{}?sslmode=require&channel_binding=require", server.url());
    let info = Conninfo::parse(&bound).unwrap();
    let known = kasho::source::wal::KnownRelations::default();
    let from = kasho::position::Lsn::ZERO;
    let source = kasho::source::wal::WalSource::open(&options(), &info, from, &known).await;
    let mut source = source.unwrap();
    server.sql("INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n").await;
    assert_eq!(rows(&mut source, 20_000).await.len(), 20_000);
    for id in 20_001..20_010 {
        server.sql(&format!("INSERT INTO t VALUES ({id}, 'y')")).await;
        assert_eq!(rows(&mut source, 1).await, [format!("1 insert public.t  -> ({id},y)")]);
    }
}

#[tokio::test]
async fn a_unix_socket_is_used_where_the_host_is_a_folder() {
    let server = Postgres::start().await;
    server.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    server.sql("CREATE PUBLICATION p FOR ALL TABLES").await;
    make_slot(&server).await;
    let info = Conninfo::parse(&server.socket_url()).unwrap();
    let known = kasho::source::wal::KnownRelations::default();
    let from = kasho::position::Lsn::ZERO;
    let source = kasho::source::wal::WalSource::open(&options(), &info, from, &known).await;
    let mut source = source.unwrap();
    let address = "SELECT client_addr IS NULL FROM pg_stat_replication";
    assert_eq!(server.value(address).await, "t");
    server.sql("INSERT INTO t SELECT generate_series(1, 3000)").await;
    assert_eq!(rows(&mut source, 3000).await.len(), 3000);
}

#[tokio::test]
async fn the_next_host_is_tried_and_a_dead_one_is_told() {
    let server = Postgres::start().await;
    let dead = free_port();
    let live = server.port();
    let url = server.url();
    let both_hosts =
        url.replace(&format!("127.0.0.1:{live}"), &format!("127.0.0.1:{dead},127.0.0.1:{live}"));
    assert!(!both(&both_hosts).await.unwrap());
    let error = both(&server.url_through(dead)).await.unwrap_err();
    assert!(matches!(error, SourceError::Connect { .. }), "{error}");
    assert_eq!(error.class(), Class::Retry);
    assert!(error.to_string().contains(&dead.to_string()));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut info = Conninfo::parse(&format!("postgres://u@127.0.0.1:{port}")).unwrap();
    info.connect_timeout = std::time::Duration::from_millis(50);
    let error = sql_connect(&info, "test").await.err().unwrap();
    assert!(matches!(error, SourceError::Timeout { ms: 50, .. }), "{error}");
    assert_eq!(error.class(), Class::Retry);
}

#[tokio::test]
async fn one_byte_at_a_time_is_understood() {
    let server = Postgres::start().await;
    prepare(&server, "CREATE TABLE t (id int PRIMARY KEY, t text)").await;
    let (port, relay) = trickle(server.port()).await;
    let info = Conninfo::parse(&server.url_through(port)).unwrap();
    let known = kasho::source::wal::KnownRelations::default();
    let from = kasho::position::Lsn::ZERO;
    let source = kasho::source::wal::WalSource::open(&options(), &info, from, &known).await;
    let mut source = source.unwrap();
    server.sql("INSERT INTO t SELECT n, repeat('x', n) FROM generate_series(1, 50) n").await;
    assert_eq!(rows(&mut source, 50).await.len(), 50);
    drop(source);
    relay.abort();
}

/// A relay that passes what the server says on in single bytes.
async fn trickle(server: u16) -> (u16, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let relay = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            client.set_nodelay(true).unwrap();
            let upstream = tokio::net::TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = upstream.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                while let Ok(byte) = from_server.read_u8().await {
                    if to_client.write_u8(byte).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
    });
    (port, relay)
}

#[tokio::test]
async fn a_standby_is_passed_over_when_a_primary_is_asked_for() {
    let server = Postgres::start().await;
    server.sql("ALTER ROLE postgres SET default_transaction_read_only = on").await;
    let info = Conninfo::parse(&format!("{}?target_session_attrs=primary", server.url())).unwrap();
    let error = sql_connect(&info, "test").await.err().unwrap();
    assert!(matches!(error, SourceError::ReadOnly { .. }), "{error}");
    assert_eq!(error.class(), Class::Retry);
    let error = ReplSession::connect(&info, "test").await.err().unwrap();
    assert!(matches!(error, SourceError::ReadOnly { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_up_during_the_login_is_tried_again() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let hanging_up = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            // As a pooler does that restarts: the greeting is read, and nothing said.
            let mut greeting = [0; 8];
            let _ = tokio::io::AsyncReadExt::read_exact(&mut near, &mut greeting).await;
        }
    });
    let url = format!("postgresql://someone:secret@127.0.0.1:{port}/db?sslmode=disable");
    let info = Conninfo::parse(&url).unwrap();
    let error = sql_connect(&info, "test").await.err().unwrap();
    assert_eq!(error.class(), Class::Retry, "{error}");
    let error = ReplSession::connect(&info, "test").await.err().unwrap();
    assert_eq!(error.class(), Class::Retry, "{error}");
    hanging_up.abort();
}
