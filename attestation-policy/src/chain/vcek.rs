//! What a VCEK says about its chip, in AMD's own extensions 1.3.6.1.4.1.3704.1.*.
//!
//! Every part that the product has must be there once; the reserved ones must be zero.

use der::Decode;
use der::asn1::{Ia5StringRef, ObjectIdentifier, OctetStringRef};
use x509_cert::ext::Extension;

use crate::field::{EvidenceError, Field};
use crate::tcb::{Product, Tcb};
use crate::values::ChipId;

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

const PRODUCT_NAME: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.2");
const BOOTLOADER: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.3");
const RESERVED: [ObjectIdentifier; 4] = [
    oid("1.3.6.1.4.1.3704.1.3.4"),
    oid("1.3.6.1.4.1.3704.1.3.5"),
    oid("1.3.6.1.4.1.3704.1.3.6"),
    oid("1.3.6.1.4.1.3704.1.3.7"),
];
const MICROCODE: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.3.9");
const HARDWARE_ID: ObjectIdentifier = oid("1.3.6.1.4.1.3704.1.4");

/// Turin's VCEKs carry the part of the chip id that is not zero.
const TURIN_ID_LENGTH: usize = 8;

/// The chip and the TCB that a VCEK is derived for.
#[derive(Debug, Clone)]
pub(super) struct VcekExtensions {
    pub(super) tcb: Tcb,
    pub(super) chip_id: ChipId,
}

impl VcekExtensions {
    pub(super) fn read(extensions: &[Extension], product: Product) -> Result<Self, EvidenceError> {
        check_product(extensions, product)?;
        Ok(Self {
            tcb: read_tcb(extensions, product)?,
            chip_id: read_chip_id(extensions, product)?,
        })
    }
}

/// The name is the product's, with the stepping behind it on Milan: "Milan-B0".
fn check_product(extensions: &[Extension], product: Product) -> Result<(), EvidenceError> {
    let found = value(extensions, PRODUCT_NAME)
        .and_then(|bytes| Ia5StringRef::from_der(bytes).ok())
        .map_or("none", |name| name.as_str());
    let is_product = found
        .strip_prefix(product.name())
        .is_some_and(|stepping| stepping.is_empty() || stepping.starts_with('-'));
    if is_product {
        return Ok(());
    }
    Err(EvidenceError::new(Field::VcekProduct, product, found))
}

fn read_tcb(extensions: &[Extension], product: Product) -> Result<Tcb, EvidenceError> {
    let part = |oid| {
        let bytes = value(extensions, oid);
        bytes.and_then(|bytes| u8::from_der(bytes).ok()).ok_or_else(|| {
            EvidenceError::new(
                Field::VcekTcb,
                format!("extension {oid}, an integer from 0 to 255"),
                bytes.map_or_else(|| "none".to_owned(), hex::encode),
            )
        })
    };
    for reserved in RESERVED {
        let is_present = value(extensions, reserved).is_some();
        if is_present && part(reserved)? != 0 {
            return Err(EvidenceError::new(
                Field::VcekTcb,
                format!("0 in the reserved extension {reserved}"),
                part(reserved)?,
            ));
        }
    }
    let has_fmc = product == Product::Turin;
    if !has_fmc && value(extensions, FMC).is_some() {
        return Err(EvidenceError::new(
            Field::VcekTcb,
            format!("no firmware management controller on {product}"),
            format!("extension {FMC}"),
        ));
    }
    Ok(Tcb {
        fmc: has_fmc.then(|| part(FMC)).transpose()?,
        bootloader: part(BOOTLOADER)?,
        tee: part(TEE)?,
        snp: part(SNP)?,
        microcode: part(MICROCODE)?,
    })
}

/// 64 bytes, bare or as a DER OCTET STRING, both of which AMD has issued; on Turin 8 bytes, the
/// rest of the chip id being zero.
fn read_chip_id(extensions: &[Extension], product: Product) -> Result<ChipId, EvidenceError> {
    let bytes = value(extensions, HARDWARE_ID).unwrap_or_default();
    let unwrapped = match <&OctetStringRef>::from_der(bytes) {
        Ok(inner) if inner.as_bytes().len() == ChipId::LENGTH => inner.as_bytes(),
        _ => bytes,
    };
    let length = if product == Product::Turin { TURIN_ID_LENGTH } else { ChipId::LENGTH };
    if unwrapped.len() != length {
        return Err(EvidenceError::new(
            Field::VcekChipId,
            format!("{length} bytes in extension {HARDWARE_ID}"),
            format!("{} bytes", unwrapped.len()),
        ));
    }
    let mut chip_id = [0; ChipId::LENGTH];
    chip_id[..length].copy_from_slice(unwrapped);
    Ok(ChipId::new(chip_id))
}

/// The extension's value. That none stands twice was checked before.
fn value(extensions: &[Extension], oid: ObjectIdentifier) -> Option<&[u8]> {
    extensions
        .iter()
        .find(|extension| extension.extn_id == oid)
        .map(|extension| extension.extn_value.as_bytes())
}
