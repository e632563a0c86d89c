// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/optim/named_optimizer.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "training/optimizer/groups_json.h"
#include "training/optimizer/parameter_state.h"

namespace lockstep::training {

/// Writes the options of an `optim::NamedOptimizer`.
class NamedOptionWriter final : public optim::OptionVisitor {
 public:
  explicit NamedOptionWriter(GroupWriter& writer) : writer_(writer) {}

  void number(const char* name, double& value) override { writer_(name, value); }
  void optional_number(const char* name, std::optional<double>& value) override {
    writer_(name, value);
  }
  void numbers(const char* name, std::span<double> values) override { writer_(name, values); }
  void integer(const char* name, std::int64_t& value) override { writer_(name, value); }
  void flag(const char* name, bool& value) override { writer_(name, value); }
  void choice(const char* name, bool& value) override { writer_(name, value); }
  void optional_text(const char* name, std::optional<std::string>& value) override {
    writer_(name, value);
  }
  void constant(const char* name, const char* json) override;

  /// As `GroupWriter::object` takes them.
  [[nodiscard]] const std::string& constants() const { return constants_; }

 private:
  GroupWriter& writer_;
  std::string constants_;
};

/// Reads them.
class NamedOptionReader final : public optim::OptionVisitor {
 public:
  explicit NamedOptionReader(GroupReader& reader) : reader_(reader) {}

  void number(const char* name, double& value) override { reader_(name, value); }
  void optional_number(const char* name, std::optional<double>& value) override {
    reader_(name, value);
  }
  void numbers(const char* name, std::span<double> values) override { reader_(name, values); }
  void integer(const char* name, std::int64_t& value) override { reader_(name, value); }
  void flag(const char* name, bool& value) override { reader_(name, value); }
  void choice(const char* name, bool& value) override { reader_.choice(name, value); }
  void optional_text(const char* name, std::optional<std::string>& value) override {
    reader_(name, value);
  }
  void constant(const char* name, const char* json) override;

 private:
  GroupReader& reader_;
};

/// Writes what it knows of one parameter.
class NamedStateWriter final : public optim::StateVisitor {
 public:
  explicit NamedStateWriter(StateWriter& writer) : writer_(writer) {}
  void count(const char* key, std::int64_t& value) override { writer_.count(key, value); }
  void tensor(const char* key, at::Tensor& value, bool /*is_required*/) override {
    writer_.optional(key, value);
  }

 private:
  StateWriter& writer_;
};

/// Reads it. Tensors may be of any floating type: the optimizer converts them to that of its own.
class NamedStateReader final : public optim::StateVisitor {
 public:
  explicit NamedStateReader(StateReader& reader) : reader_(reader) {}
  void count(const char* key, std::int64_t& value) override { reader_.count(key, value); }
  void tensor(const char* key, at::Tensor& value, bool is_required) override {
    reader_.floating(key, value, is_required);
  }

 private:
  StateReader& reader_;
};

}  // namespace lockstep::training
