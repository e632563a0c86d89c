// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "training/optimizer/named_state.h"

namespace lockstep::training {

using NamedTensors = std::map<std::string, at::Tensor>;

/// Puts what an optimizer knows of one parameter among `tensors`, each under `prefix` and its key.
class StateWriter {
 public:
  StateWriter(std::string prefix, NamedTensors& tensors)
      : prefix_(std::move(prefix)), tensors_(tensors) {}

  void shaped(const char* key, const at::Tensor& value) { tensor(key, value); }
  void optional(const char* key, const at::Tensor& value) { tensor(key, value); }
  void count(const char* key, std::int64_t value);  ///< as Python's `step`: a float32
  void integer(const char* key, std::int64_t value);
  void number(const char* key, double value);
  void flat(const char* key, const at::Tensor& value) { tensor(key, value); }
  void scalar(const char* key, const at::Tensor& value) { tensor(key, value); }
  void flats(const char* key, const std::deque<at::Tensor>& values);
  void scalars(const char* key, const std::deque<at::Tensor>& values) { flats(key, values); }
  void scratch(const char* /*key*/) {}

 private:
  void tensor(const std::string& key, const at::Tensor& value);

  std::string prefix_;
  NamedTensors& tensors_;
};

/// Takes it from there. What is not there is an error, but for `optional`, and what LBFGS has in
/// its first step. Names that were used are added to `used`.
class StateReader {
 public:
  /// `all_elements`: of all parameters of the optimizer.
  StateReader(std::string prefix, const at::Tensor& parameter, std::int64_t all_elements,
              const NamedTensors& tensors, StateTensors kind, std::set<std::string>& used)
      : prefix_(std::move(prefix)),
        parameter_(parameter),
        all_elements_(all_elements),
        tensors_(tensors),
        kind_(kind),
        used_(used) {}

  void shaped(const char* key, at::Tensor& value);
  void optional(const char* key, at::Tensor& value);
  /// Of the parameter's shape, and of any floating type.
  void floating(const char* key, at::Tensor& value, bool is_required);
  void flat(const char* key, at::Tensor& value);
  void scalar(const char* key, at::Tensor& value);
  void count(const char* key, std::int64_t& value) {
    integer(key, value);
    TORCH_CHECK(value >= 0, "the state of the optimizer: '", prefix_, key, "' is ", value,
                "; steps are counted from 0");
  }
  void integer(const char* key, std::int64_t& value);
  void number(const char* key, double& value);
  void flats(const char* key, std::deque<at::Tensor>& values) {
    list(key, {all_elements_}, values);
  }
  void scalars(const char* key, std::deque<at::Tensor>& values) { list(key, {}, values); }
  /// Passes over it.
  void scratch(const char* key);

 private:
  /// Returns a tensor on the parameter's device, or an undefined one where there is none.
  [[nodiscard]] at::Tensor take(const std::string& key);
  /// The same, which must have this shape and the dtype of the parameter, if it is there.
  [[nodiscard]] at::Tensor take(const std::string& key, at::IntArrayRef shape);
  [[nodiscard]] double number_at(const char* key);
  void list(const char* key, at::IntArrayRef shape, std::deque<at::Tensor>& values);

  std::string prefix_;
  const at::Tensor& parameter_;
  std::int64_t all_elements_;
  const NamedTensors& tensors_;
  StateTensors kind_;
  std::set<std::string>& used_;
};

}  // namespace lockstep::training
