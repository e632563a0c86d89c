// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::optim::lr_scheduler {

/// What a schedule shows its fields to, under Python's names, both to save and to load them. A
/// schedule names each field once, so that what is saved is what is loaded.
///
/// On loading, the values are set after all of them were found to be in order. The variables must
/// therefore outlive the call.
///
/// Thread-safety: none.
class LOCKSTEP_API StateFields {
 public:
  virtual ~StateFields() = default;

  /// A whole number.
  virtual void integer(const char* key, std::int64_t& value) = 0;
  /// A number, which may be infinite.
  virtual void number(const char* key, double& value) = 0;
  /// A yes or no.
  virtual void flag(const char* key, bool& value) = 0;
  /// A text in UTF-8.
  virtual void text(const char* key, std::string& value) = 0;
  /// A number that may be missing: null.
  virtual void optional(const char* key, std::optional<double>& value) = 0;
  /// Numbers. Loading takes `size` of them, or as many as there are now.
  virtual void numbers(const char* key, std::vector<double>& values,
                       std::optional<std::size_t> size = std::nullopt) = 0;
  /// As many whole numbers as there are now.
  virtual void integers(const char* key, std::vector<std::int64_t>& values) = 0;
  /// How often each of some whole numbers appears: Python's `Counter`.
  virtual void counts(const char* key, std::map<std::int64_t, std::int64_t>& values) = 0;
  /// JSON that a state must have as it is here, if it has the key.
  virtual void fixed(const char* key, const std::string& json) = 0;
  /// JSON for Python; loading does not look at it.
  virtual void ignored(const char* key, const std::string& json) = 0;
  /// Whether there is such a key to load; always, to save.
  [[nodiscard]] virtual bool has(const char* key) const = 0;
  /// An array of `count` objects, of which `visit` shows one. It has `least` to `most` of them on
  /// loading; where the two differ, `count` is set to their number.
  virtual void objects(
      const char* key, std::int64_t& count, std::int64_t least, std::int64_t most,
      const std::function<void(std::size_t index, StateFields& object)>& visit) = 0;
};

}  // namespace lockstep::optim::lr_scheduler
