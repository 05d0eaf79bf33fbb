//! The certificates of the cluster. Each run of the suite generates new ones, and keeps them only in memory.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its private key, in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

pub struct Certificates {
    /// The certificate of the authority that has signed the others, in PEM.
    pub authority: String,
    /// The certificate of the API server and of the kubelet.
    pub server: Pair,
    /// The certificate of all their clients, which are administrators.
    pub client: Pair,
    /// The key pair that signs and verifies the tokens of service accounts. `certificate` is the public key.
    pub accounts: Pair,
}

impl Certificates {
    /// Certificates for servers with these addresses.
    pub fn new(addresses: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = named("podpause-suite", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let signed = |mut params: CertificateParams, purpose| {
            params.extended_key_usages = vec![purpose];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap().pem();
            Pair { certificate, key: key.serialize_pem() }
        };
        let mut server = CertificateParams::new(
            addresses.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(),
        )
        .unwrap();
        server.distinguished_name = named("server", None).distinguished_name;
        let accounts = KeyPair::generate().unwrap();
        Self {
            server: signed(server, ExtendedKeyUsagePurpose::ServerAuth),
            // Kubernetes lets the members of this group do everything.
            client: signed(
                named("suite", Some("system:masters")),
                ExtendedKeyUsagePurpose::ClientAuth,
            ),
            accounts: Pair {
                certificate: accounts.public_key_pem(),
                key: accounts.serialize_pem(),
            },
            authority,
        }
    }
}

fn named(name: &str, group: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params
}
