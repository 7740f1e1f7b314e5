// A self-signed certificate, as GET /node/network shows the service's key and members show theirs.

import { sign } from "node:crypto";

const ECDSA_WITH_SHA384 = "06082a8648ce3d040303";
const COMMON_NAME = "0603550403";

/** PEM of a certificate of `publicKey` by `key`. */
export function certificate(key, publicKey, name = "CCF Service") {
  const algorithm = der(0x30, Buffer.from(ECDSA_WITH_SHA384, "hex"));
  const attribute = der(0x30, Buffer.from(COMMON_NAME, "hex"), der(0x0c, Buffer.from(name)));
  const subject = der(0x30, der(0x31, attribute));
  const time = (text) => der(0x18, Buffer.from(text));
  const content = der(
    0x30,
    der(0x02, Buffer.from([1])),
    algorithm,
    subject,
    der(0x30, time("20250101000000Z"), time("20991231235959Z")),
    subject,
    publicKey.export({ type: "spki", format: "der" }),
  );
  const signature = sign("sha384", content, key);
  const whole = der(0x30, content, algorithm, der(0x03, Buffer.from([0]), signature));
  const lines = whole.toString("base64").match(/.{1,64}/g);
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n");
}

function der(tag, ...parts) {
  const content = Buffer.concat(parts);
  const { length } = content;
  const size = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}
