// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>

namespace lockstep::testing::parity {

/// A tensor as the oracle wrote it: Double, complex numbers as pairs in a last dimension of 2.
struct StoredTensor {
  torch::Tensor values;
  bool is_sparse = false;  ///< it was; `values` are dense
};

/// What one rank of the oracle wrote about one case, by name: see tests/python/ddp_oracle.py.
using Records = std::map<std::string, StoredTensor>;

/// The folder of the oracle's files. Throws: `std::runtime_error` where the driver did not set it.
std::filesystem::path fixtures();

/// Throws: `std::runtime_error` for a file that is missing, cut short, or no such file.
Records read_records(const std::filesystem::path& file);

/// The records whose names begin with `prefix`, without it.
Records with_prefix(const Records& records, const std::string& prefix);

}  // namespace lockstep::testing::parity
