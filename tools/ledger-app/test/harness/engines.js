// Where the compiled modules run: every test of them runs in each.

import { native } from "./native.js";
import { quickjs } from "./quickjs.js";

export const ENGINES = [native, quickjs];
