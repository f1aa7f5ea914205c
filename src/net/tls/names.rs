//! The names in a certificate (RFC 5280 4.1): subject and issuer, for people.
//!
//! Nothing is decided by them except the words of an error. Trust is the verifier's matter.

/// Subject and issuer of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateNames {
    /// The common name of the subject, or its organization; may be empty.
    pub subject: String,
    /// The same of the issuer.
    pub issuer: String,
    /// True if both are the same name, so that the certificate is its own issuer's.
    pub are_equal: bool,
}

/// Returns the names in the certificate `der`, or None if it cannot be parsed.
pub fn names(der: &[u8]) -> Option<CertificateNames> {
    let certificate = Element::parse(der)?;
    let mut rest = Element::parse(certificate.content)?.content;
    let mut next = || {
        let element = Element::parse(rest)?;
        rest = element.rest;
        Some(element)
    };
    // Version, which is optional, serial number and signature algorithm.
    if next()?.tag == VERSION {
        next()?;
    }
    next()?;
    let issuer = next()?.content;
    let _validity = next()?;
    let subject = next()?.content;
    Some(CertificateNames {
        subject: name(subject),
        issuer: name(issuer),
        are_equal: subject == issuer,
    })
}

/// Returns the common name, or else the organization, in the contents of a Name.
fn name(mut sets: &[u8]) -> String {
    let (mut common, mut organization) = (None, None);
    while let Some(set) = Element::parse(sets) {
        sets = set.rest;
        let attribute = Element::parse(set.content).map_or(&[][..], |pair| pair.content);
        let Some(kind) = Element::parse(attribute) else { continue };
        let Some(value) = Element::parse(kind.rest) else { continue };
        match kind.content {
            COMMON_NAME => common = Some(value.content),
            ORGANIZATION => organization = Some(value.content),
            _ => {}
        }
    }
    let text = String::from_utf8_lossy(common.or(organization).unwrap_or_default());
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// An element in DER: a tag, a length, and the contents.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// The bytes after the element.
    rest: &'a [u8],
}

impl Element<'_> {
    fn parse(bytes: &[u8]) -> Option<Element<'_>> {
        let (tag, rest) = bytes.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(*length), rest),
            // The number of bytes of the length. A certificate is shorter than 16 MiB.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        Some(Element { tag: *tag, content, rest })
    }
}

/// The tag of the version, `[0] EXPLICIT`.
const VERSION: u8 = 0xa0;
/// The object identifier 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// The object identifier 2.5.4.10.
const ORGANIZATION: &[u8] = &[0x55, 4, 10];

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

    #[test]
    fn names_of_certificates() {
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.distinguished_name = rcgen::DistinguishedName::new();
        authority.distinguished_name.push(DnType::OrganizationName, "Our\tcompany");
        let own = authority.self_signed(&key).unwrap();
        let found = names(own.der()).unwrap();
        let company = "Our?company".to_owned();
        let equal = CertificateNames { subject: company.clone(), issuer: company, are_equal: true };
        assert_eq!(found, equal);

        let mut params = CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "Other");
        params.distinguished_name.push(DnType::CommonName, "mx.test \u{e9}".repeat(30));
        let leaf = params.signed_by(&key, &Issuer::from_params(&authority, &key)).unwrap();
        let found = names(leaf.der()).unwrap();
        assert_eq!(
            (&*found.subject, &*found.issuer),
            (&*"mx.test \u{e9}".repeat(30), "Our?company")
        );
        assert!(!found.are_equal);
        // A certificate that is cut off or changed at any byte does no harm.
        for at in 0..leaf.der().len() {
            names(leaf.der().get(..at).unwrap());
            let mut changed = leaf.der().to_vec();
            changed[at] ^= 0xff;
            names(&changed);
        }
    }
}
