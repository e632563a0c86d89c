// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

namespace lockstep::training {

/// Makes the index of several files, as Hugging Face's programs write it.
class IndexWriter {
 public:
  void add(const std::string& tensor, std::uint64_t bytes, const std::string& file);
  [[nodiscard]] std::string text() const;

 private:
  std::uint64_t total_ = 0;
  std::string map_;
};

}  // namespace lockstep::training
