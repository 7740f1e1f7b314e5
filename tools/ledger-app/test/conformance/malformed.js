// Requests that no ledger accepts.

const upper = (hex) => `AB${hex.slice(2)}`;

export const MALFORMED = {
  /** [why, path, body] */
  bodies(tag, digest) {
    const append = { tag, version: 1, digest };
    const read = { tag, nonce: digest };
    const text = JSON.stringify(append);
    const of = (path, good, members) =>
      Object.entries(members).flatMap(([name, values]) =>
        values.map((value) => [`${name}: ${JSON.stringify(value)}`, path, { ...good, [name]: value }]),
      );
    const hexes = [undefined, null, 1, "", "x", tag.slice(2), `${tag}00`, upper(tag), ` ${tag.slice(1)}`, `g${tag.slice(1)}`, [tag]];
    const versions = [undefined, null, 0, -1, 1.5, "1", 2 ** 53, 1e300, true, [1]];
    return [
      ...of("/app/append", append, { tag: hexes, digest: hexes, version: versions, more: [1] }),
      ...of("/app/read", read, { tag: hexes, nonce: hexes, version: [1] }),
      ...["", "{", "null", "[]", "1", '"x"', `${text} x`, `[${text}]`].map((body) => [body, "/app/append", body]),
      ["a member twice", "/app/append", text.replace("{", `{"version":1,`)],
      ["a member twice, other value", "/app/append", text.replace("{", `{"digest":"${tag}",`)],
      ["__proto__", "/app/append", text.replace("{", '{"__proto__":{},')],
      ["a nonce in an append", "/app/append", { ...append, nonce: digest }],
      ["too large an integer", "/app/append", text.replace('"version":1', '"version":9007199254740993')],
    ];
  },

  /** [path with query, code] */
  queries(tag) {
    const current = ["", "?", "?tag", "?tag=", `?tag=${tag.slice(2)}`, `?tag=${upper(tag)}`, `?tag=${tag}00`, `?TAG=${tag}`, `?tag=${tag}&tag=${tag}`, `?tag=${tag}&more=1`];
    const receipt = ["", "?transaction_id=", ...["x", "2", "2.", ".2", "02.2", "2.02", "2.2.2", "-2.2", "2.-2", "2.2x"].map((id) => `?transaction_id=${id}`), "?transaction_id=2.2&more=1"];
    return [
      ...current.map((query) => [`/app/current${query}`, "InvalidInput"]),
      ...receipt.map((query) => [`/app/receipt${query}`, "InvalidQueryParameterValue"]),
    ];
  },
};
