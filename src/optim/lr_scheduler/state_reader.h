// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/optim/lr_scheduler/state_fields.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "optim/lr_scheduler/state_tree.h"

namespace lockstep::optim::lr_scheduler {

/// Variables and what was read for them. Exchanging them twice changes nothing.
class StateSwaps {
 public:
  template <class Value>
  void add(Value& variable, Value read) {
    swaps_.push_back([&variable, read = std::move(read)]() mutable { std::swap(variable, read); });
  }
  void swap() {
    for (auto& swap : swaps_) swap();
  }

 private:
  std::vector<std::function<void()>> swaps_;
};

/// Reads the fields of one object, and changes none of them: what was read goes to `swaps`.
class StateReader final : public StateFields {
 public:
  StateReader(std::string schedule, std::shared_ptr<const StateObject> object, StateSwaps& swaps)
      : schedule_(std::move(schedule)), object_(std::move(object)), swaps_(swaps) {}

  void integer(const char* key, std::int64_t& value) override;
  void number(const char* key, double& value) override;
  void flag(const char* key, bool& value) override;
  void text(const char* key, std::string& value) override;
  void optional(const char* key, std::optional<double>& value) override;
  void numbers(const char* key, std::vector<double>& values,
               std::optional<std::size_t> size) override;
  void integers(const char* key, std::vector<std::int64_t>& values) override;
  void counts(const char* key, std::map<std::int64_t, std::int64_t>& values) override;
  void fixed(const char* key, const std::string& json) override;
  void ignored(const char* /*key*/, const std::string& /*json*/) override {}
  bool has(const char* key) const override { return object_->contains(key); }
  void objects(const char* key, std::int64_t& count, std::int64_t least, std::int64_t most,
               const std::function<void(std::size_t, StateFields&)>& visit) override;

 private:
  [[nodiscard]] const StateValue& at(const char* key) const;
  [[nodiscard]] const std::string& scalar(const char* key) const;
  [[nodiscard]] const std::vector<std::string>& array(const char* key, std::size_t size) const;
  [[nodiscard]] double number_of(const char* key, const std::string& text) const;
  [[nodiscard]] std::int64_t integer_of(const char* key, const std::string& text) const;

  std::string schedule_;
  std::shared_ptr<const StateObject> object_;
  StateSwaps& swaps_;
};

}  // namespace lockstep::optim::lr_scheduler
