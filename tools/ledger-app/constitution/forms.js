// The forms of arguments: each throws what is wrong with a value.

const text = (value) => need(typeof value === "string" && value !== "", "is not text");
const object = (value) =>
  need(typeof value === "object" && value !== null && !Array.isArray(value), "is not an object");
const list = (value) => need(Array.isArray(value) && value.length > 0, "is not a list of something");
const flag = (value) => need(typeof value === "boolean", "is neither true nor false");
const days = (value) => need(Number.isInteger(value) && value > 0, "is not a number of days");
const hexOf = (bytes) => (value) => {
  const right = typeof value === "string" && value.length === 2 * bytes && /^[0-9a-f]+$/.test(value);
  need(right, `is not ${2 * bytes} lower-case hex digits`);
};
const certificate = (value) => {
  text(value);
  need(ccf.crypto.isValidX509CertBundle(value), "is not a PEM certificate");
};
const oneOf = (...values) => (value) => need(values.includes(value), `is none of ${values.join(", ")}`);

/** A form that may be absent. */
function optional(form) {
  return { optional: form };
}

/** An object with exactly these members. */
function members(forms) {
  return (value) => {
    object(value);
    for (const name of Object.keys(value)) {
      need(Object.keys(forms).includes(name), `has an unknown member ${JSON.stringify(name)}`);
    }
    for (const [name, form] of Object.entries(forms)) {
      const absent = !Object.keys(value).includes(name);
      if (absent && form.optional) continue;
      need(!absent, `has no ${name}`);
      within(name, () => (form.optional ?? form)(value[name]));
    }
  };
}

/** Each of these forms, in order. */
function all(...forms) {
  return (value) => forms.forEach((form) => form(value));
}

/** An action without arguments. */
function nothing(value) {
  need(value === undefined || value === null, "takes no arguments");
}

function need(right, wrong) {
  if (!right) throw new Error(wrong);
}

/** Says where it was, if something is wrong. */
function within(place, check) {
  try {
    check();
  } catch (error) {
    throw new Error(`${place}: ${error.message}`);
  }
}
