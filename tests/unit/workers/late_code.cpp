// SPDX-License-Identifier: BSD-3-Clause
// A library that a test loads while it runs.

extern "C" __attribute__((visibility("default"))) int late_function(int value) {
  return 3 * value;
}
