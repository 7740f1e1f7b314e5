// What a CCF node offers its JavaScript, typed by npm's @microsoft/ccf-app. Types alone: nothing of the
// package is in the output, which runs in the node as it is compiled.

declare const ccf: import("@microsoft/ccf-app/global.js").CCF;
