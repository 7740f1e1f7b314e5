// A relying party that runs npm's @simplewebauthn/server and knows nothing of Keyfold.
//
// One question per line on standard input, one answer per line on standard output, both JSON:
//   {"begin": "registration", "user", "algorithms", "userVerification", "extensions"}
//   {"begin": "authentication", "credential", "userVerification", "extensions"}
//     -> {"ceremony": number, "options": the JSON for the client}
//   {"finish": ceremony, "response": the client's JSON}
//     -> {"accepted": {"credential", "algorithm", "userVerified"}} or {"refused": why}
// A ceremony can be finished any number of times, so that a test can alter what it sends.

import { createInterface } from 'node:readline';
import {
  generateAuthenticationOptions,
  generateRegistrationOptions,
  verifyAuthenticationResponse,
  verifyRegistrationResponse,
} from '@simplewebauthn/server';
import { cose, decodeCredentialPublicKey } from '@simplewebauthn/server/helpers';

const [rpID, expectedOrigin] = process.argv.slice(2);
const ceremonies = [];
const credentials = new Map();

async function begin(asked) {
  const { user, algorithms, userVerification, credential, extensions } = asked;
  const options =
    asked.begin === 'registration'
      ? await generateRegistrationOptions({
          rpID,
          rpName: 'Shop',
          userName: user,
          userID: new TextEncoder().encode(user),
          // Some sites ask for it; the answer is none all the same.
          attestationType: 'direct',
          authenticatorSelection: { residentKey: 'required', userVerification },
          supportedAlgorithmIDs: algorithms,
          extensions,
        })
      : await generateAuthenticationOptions({
          rpID,
          allowCredentials: [{ id: credential }],
          userVerification,
          extensions,
        });
  ceremonies.push({ ...asked, challenge: options.challenge });
  return { ceremony: ceremonies.length - 1, options };
}

async function finish({ finish: ceremony, response }) {
  const asked = ceremonies[ceremony];
  const expected = {
    response,
    expectedChallenge: asked.challenge,
    expectedOrigin,
    expectedRPID: rpID,
    requireUserVerification: asked.userVerification === 'required',
  };
  try {
    return asked.begin === 'registration'
      ? await register(expected, asked.algorithms)
      : await authenticate(expected, asked.credential);
  } catch (error) {
    return { refused: error.message };
  }
}

async function register(expected, supportedAlgorithmIDs) {
  const { verified, registrationInfo } = await verifyRegistrationResponse({
    ...expected,
    supportedAlgorithmIDs,
  });
  if (!verified) return { refused: 'not verified' };
  const { credential, userVerified } = registrationInfo;
  credentials.set(credential.id, credential);
  return accepted(credential, userVerified);
}

async function authenticate(expected, id) {
  const credential = credentials.get(id);
  const { verified, authenticationInfo } = await verifyAuthenticationResponse({
    ...expected,
    credential,
  });
  if (!verified) return { refused: 'not verified' };
  return accepted(credential, authenticationInfo.userVerified);
}

function accepted({ id, publicKey }, userVerified) {
  const algorithm = decodeCredentialPublicKey(publicKey).get(cose.COSEKEYS.alg);
  return { accepted: { credential: id, algorithm, userVerified } };
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const answer = 'begin' in asked ? await begin(asked) : await finish(asked);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
