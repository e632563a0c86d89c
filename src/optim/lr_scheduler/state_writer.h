// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/optim/lr_scheduler/state_fields.h>

#include <string>

namespace lockstep::optim::lr_scheduler {

/// Writes the fields of one object as JSON.
class StateWriter final : public StateFields {
 public:
  /// All fields that were shown.
  [[nodiscard]] std::string object() const { return '{' + fields_ + '}'; }

  void integer(const char* key, std::int64_t& value) override;
  void number(const char* key, double& value) override;
  void flag(const char* key, bool& value) override;
  void text(const char* key, std::string& value) override;
  void optional(const char* key, std::optional<double>& value) override;
  void numbers(const char* key, std::vector<double>& values,
               std::optional<std::size_t> size) override;
  void integers(const char* key, std::vector<std::int64_t>& values) override;
  void counts(const char* key, std::map<std::int64_t, std::int64_t>& values) override;
  void fixed(const char* key, const std::string& json) override { add(key, json); }
  void ignored(const char* key, const std::string& json) override { add(key, json); }
  bool has(const char* /*key*/) const override { return true; }
  void objects(const char* key, std::int64_t& count, std::int64_t least, std::int64_t most,
               const std::function<void(std::size_t, StateFields&)>& visit) override;

 private:
  void add(const char* key, const std::string& json);

  std::string fields_;
};

}  // namespace lockstep::optim::lr_scheduler
