//! What is read out of a certificate for people and for who asks who a peer is. Whether it is good is
//! rustls' to say.

use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq, Tag, tags};

/// Names of the attributes of a subject (RFC 4514); others are shown by their number.
const ATTRIBUTES: [(&[u64], &str); 10] = [
    (&[2, 5, 4, 3], "CN"),
    (&[2, 5, 4, 5], "serialNumber"),
    (&[2, 5, 4, 6], "C"),
    (&[2, 5, 4, 7], "L"),
    (&[2, 5, 4, 8], "ST"),
    (&[2, 5, 4, 10], "O"),
    (&[2, 5, 4, 11], "OU"),
    (&[0, 9, 2342, 19_200_300, 100, 1, 1], "UID"),
    (&[0, 9, 2342, 19_200_300, 100, 1, 25], "DC"),
    (&[1, 2, 840, 113_549, 1, 9, 1], "emailAddress"),
];

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// In hexadecimal.
    pub(super) serial: String,
    /// Seconds since 1970.
    pub(super) expires: i64,
    /// `O=Team, CN=name`, in the certificate's order. What has a meaning in that is escaped, so that
    /// no value can pass for two.
    pub(super) subject: String,
}

impl Facts {
    /// Reads a certificate (DER).
    pub(super) fn of(certificate: &[u8]) -> Result<Self, String> {
        let read = yasna::parse_der(certificate, |reader| {
            reader.read_sequence(|reader| {
                let facts = reader.next().read_sequence(signed)?;
                reader.next().read_der()?; // algorithm
                reader.next().read_der()?; // signature
                Ok(facts)
            })
        });
        read.map_err(|error| format!("no certificate: {error}"))
    }
}

/// The part that is signed: version, serial number, algorithm, issuer, validity, subject.
fn signed(reader: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Facts> {
    reader
        .read_optional(|reader| reader.read_tagged(Tag::context(0), |reader| reader.read_i64()))?;
    let serial = reader.next().read_tagged_der()?;
    let serial = serial.value().iter().map(|byte| format!("{byte:02x}"));
    let serial = serial.collect();
    reader.next().read_der()?;
    reader.next().read_der()?;
    let expires = reader.next().read_sequence(|reader| {
        time(reader.next())?;
        time(reader.next())
    })?;
    let mut parts = Vec::new();
    reader.next().read_sequence_of(|reader| {
        reader.read_set_of(|reader| {
            parts.push(reader.read_sequence(attribute)?);
            Ok(())
        })
    })?;
    while reader.read_optional(|reader| reader.read_der())?.is_some() {}
    Ok(Facts {
        serial,
        expires,
        subject: parts.join(", "),
    })
}

fn time(reader: BERReader<'_, '_>) -> ASN1Result<i64> {
    match reader.lookahead_tag()? {
        tags::TAG_UTCTIME => Ok(reader.read_utctime()?.datetime().unix_timestamp()),
        tags::TAG_GENERALIZEDTIME => {
            Ok(reader.read_generalized_time()?.datetime().unix_timestamp())
        }
        _ => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
    }
}

fn attribute(reader: &mut BERReaderSeq<'_, '_>) -> ASN1Result<String> {
    let oid = reader.next().read_oid()?;
    let value = reader.next().read_tagged_der()?;
    let name = ATTRIBUTES
        .iter()
        .find(|(known, _)| *known == oid.components().as_slice())
        .map_or_else(|| oid.to_string(), |(_, name)| (*name).to_owned());
    let mut text = format!("{name}=");
    for character in String::from_utf8_lossy(value.value()).chars() {
        match character {
            ',' | '+' | '=' | '\\' | '"' | '<' | '>' | ';' | '#' => {
                text.extend(['\\', character]);
            }
            character if character.is_control() => {
                text.push_str(&format!("\\{:02x}", u32::from(character)));
            }
            character => text.push(character),
        }
    }
    Ok(text)
}
