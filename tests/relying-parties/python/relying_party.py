"""A relying party that runs PyPI's webauthn and knows nothing of Keyfold.

One question per line on standard input, one answer per line on standard output, both JSON:
  {"begin": "registration", "user", "algorithms", "userVerification", "extensions"}
  {"begin": "authentication", "credential", "userVerification", "extensions"}
    -> {"ceremony": number, "options": the JSON for the client}
  {"finish": ceremony, "response": the client's JSON}
    -> {"accepted": {"credential", "algorithm", "userVerified"}} or {"refused": why}
A ceremony can be finished any number of times, so that a test can alter what it sends.
"""

import json
import sys

import webauthn
from webauthn.helpers import (
    base64url_to_bytes,
    bytes_to_base64url,
    decode_credential_public_key,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AttestationConveyancePreference,
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

RP_ID, ORIGIN = sys.argv[1:]
ceremonies = []
credentials = {}


def begin(asked):
    verification = UserVerificationRequirement(asked["userVerification"])
    if asked["begin"] == "registration":
        options = webauthn.generate_registration_options(
            rp_id=RP_ID,
            rp_name="Shop",
            user_name=asked["user"],
            user_id=asked["user"].encode(),
            # Some sites ask for it; the answer is none all the same.
            attestation=AttestationConveyancePreference.DIRECT,
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED,
                user_verification=verification,
            ),
            supported_pub_key_algs=algorithms(asked),
        )
    else:
        credential = PublicKeyCredentialDescriptor(id=base64url_to_bytes(asked["credential"]))
        options = webauthn.generate_authentication_options(
            rp_id=RP_ID, allow_credentials=[credential], user_verification=verification
        )
    ceremonies.append((asked, options.challenge))
    # The library has no extensions; sites that use them add them to its options.
    options = json.loads(webauthn.options_to_json(options))
    if asked.get("extensions"):
        options["extensions"] = asked["extensions"]
    return {"ceremony": len(ceremonies) - 1, "options": options}


def algorithms(asked):
    return [COSEAlgorithmIdentifier(algorithm) for algorithm in asked["algorithms"]]


def finish(ceremony, response):
    asked, challenge = ceremonies[ceremony]
    expected = {
        "credential": response,
        "expected_challenge": challenge,
        "expected_rp_id": RP_ID,
        "expected_origin": ORIGIN,
        "require_user_verification": asked["userVerification"] == "required",
    }
    try:
        if asked["begin"] == "registration":
            verified = webauthn.verify_registration_response(
                **expected, supported_pub_key_algs=algorithms(asked)
            )
            credential = bytes_to_base64url(verified.credential_id)
            credentials[credential] = verified.credential_public_key
        else:
            credential = asked["credential"]
            verified = webauthn.verify_authentication_response(
                **expected,
                credential_public_key=credentials[credential],
                credential_current_sign_count=0,
            )
    except WebAuthnException as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    algorithm = decode_credential_public_key(credentials[credential]).alg
    return {
        "accepted": {
            "credential": credential,
            "algorithm": int(algorithm),
            "userVerified": verified.user_verified,
        }
    }


for line in sys.stdin:
    question = json.loads(line)
    if "begin" in question:
        answer = begin(question)
    else:
        answer = finish(question["finish"], question["response"])
    print(json.dumps(answer), flush=True)
