//! Hashes that other implementations made: `bcrypt` 5 and `argon2-cffi` of Python, and
//! Python's own `hashlib`.

use super::*;

const SALT: Hash = Hash(*b"0123456789abcdef");

fn password(algorithm: Algorithm, phc: bool) -> Password {
    Password { algorithm, cleartext: Template::default(), salt: Salt::One, phc }
}

fn hashed(algorithm: Algorithm, cleartext: &str) -> String {
    password(algorithm, false).hash(cleartext, SALT)
}

#[test]
fn bcrypt_is_bcrypts() {
    let long = "x".repeat(80);
    for (cleartext, cost, want) in [
        ("", 4, "g/oaNzVlQFb3jg.67P.r1snBL8ZffHa"),
        ("test", 4, "Zf4A83n.6Hp9ZV0.JwKF3lprhg/lLKa"),
        ("test", 6, "N0uhF4RjfFeR.lkVfVi03UJxYCdYNa2"),
        ("pässwörd", 4, "A70qiJppaMTg4tGugEmfZRuKGE/Oz3y"),
        (&long, 6, "4Q7l/lOHqV5HRbv4LSsr/Z4Qeg4piOS"),
    ] {
        let want = format!("$2a$0{cost}$KBCwKxOzLha2MUDgW0PjXe{want}");
        assert_eq!(hashed(Algorithm::Bcrypt { cost }, cleartext), want, "{cleartext}");
    }
}

/// As `hex(salt)$hex(hash)`.
fn of(algorithm: Algorithm, cleartext: &str, want: &str) {
    let salt = "30313233343536373839616263646566";
    assert_eq!(hashed(algorithm, cleartext), format!("{salt}${want}"), "{algorithm:?}");
}

#[test]
fn scrypt_is_hashlibs() {
    let small = Algorithm::Scrypt { log_n: 4, r: 2, p: 3 };
    let usual = Algorithm::Scrypt { log_n: 10, r: 8, p: 1 };
    of(usual, "", "6be0d9ab326d2dca5a6019666181584d8d2b4fb7a6fe541a7f24edf55feb1ee5");
    of(usual, "test", "5066a32cdb42e899094a18cbb03144c5d6b132b504009dc7f01134bfa18ad919");
    of(small, "test", "1266e12a37f91e6bbb46506c375d1d699bb99a2d886f21f8e24a4833f9f632de");
}

#[test]
fn pbkdf2_is_hashlibs() {
    for (hash, want) in [
        (Digest::Sha256, "d551e2bbfdf53382764cccaa261990b197f93bb9581539f570ef16f5ae312a22"),
        (Digest::Sha384, "300a4aa64cefdb247272b22dbce4f6068c017ac9fa959b392746249e6e7ee9cf"),
        (Digest::Sha512, "31fb5d227f40b289134bd4c38051854b506ff305f1304926d77611c23a2a1953"),
    ] {
        of(Algorithm::Pbkdf2 { rounds: 1000, hash }, "test", want);
    }
}

#[test]
fn argon2id_is_argon2_cffis() {
    let one = Algorithm::Argon2id { time: 3, memory: 256, threads: 1 };
    let four = Algorithm::Argon2id { time: 2, memory: 512, threads: 4 };
    of(one, "test", "bbe9a6f0456af60c90c9f3217add6ed3ffaddc684d4d1f64c7132f855353c41b");
    assert_eq!(
        password(four, true).hash("test", SALT),
        "$argon2id$v=19$m=512,t=2,p=4$MDEyMzQ1Njc4OWFiY2RlZg$vXjOzY3r2uxp/hNHHaQHS/rEDWbcaTeJSUKaer/kalM"
    );
}

#[test]
fn the_phc_notation_names_all_parameters() {
    let scrypt = Algorithm::Scrypt { log_n: 10, r: 8, p: 1 };
    let pbkdf2 = Algorithm::Pbkdf2 { rounds: 1000, hash: Digest::Sha256 };
    for (algorithm, want) in
        [(scrypt, "$scrypt$ln=10,r=8,p=1$MDEy"), (pbkdf2, "$pbkdf2-sha256$i=1000,l=32$MDEy")]
    {
        let text = password(algorithm, true).hash("test", SALT);
        assert!(text.starts_with(want), "{text}");
        assert!(text.len() <= password(algorithm, true).longest());
    }
}

#[test]
fn a_hash_is_computed_once() {
    let bcrypt = password(Algorithm::Bcrypt { cost: 4 }, false);
    let mut kept = Kept::default();
    let first = kept.hash(&bcrypt, "a", SALT).to_owned();
    assert_eq!(kept.hash(&bcrypt, "a", SALT), first);
    assert_eq!(kept.0.len(), 1);
    assert_ne!(kept.hash(&bcrypt, "a", Hash::default()), first);
    assert_ne!(kept.hash(&bcrypt, "b", SALT), first);
    for n in 0..KEPT {
        kept.0.insert((n.to_string(), SALT.0), String::new());
    }
    assert_eq!(kept.hash(&bcrypt, "a", SALT), first);
    assert_eq!(kept.0.len(), 1, "what is kept is bounded");
}
