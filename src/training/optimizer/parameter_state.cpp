// SPDX-License-Identifier: BSD-3-Clause
#include "training/optimizer/parameter_state.h"

#include <ATen/ops/detach.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <utility>

namespace lockstep::training {
namespace {

constexpr double kExactIntegers = 9007199254740992.0;  // 2^53: each has a double of its own

at::Tensor scalar_of(double value, at::ScalarType type) {
  return at::scalar_tensor(value, at::TensorOptions().dtype(type));
}

}  // namespace

void StateWriter::tensor(const std::string& key, const at::Tensor& value) {
  if (value.defined()) tensors_.emplace(prefix_ + key, value);
}

void StateWriter::count(const char* key, std::int64_t value) {
  tensors_.emplace(prefix_ + key, scalar_of(static_cast<double>(value), at::kFloat));
}

void StateWriter::integer(const char* key, std::int64_t value) {
  tensors_.emplace(prefix_ + key, at::scalar_tensor(value, at::TensorOptions().dtype(at::kLong)));
}

void StateWriter::number(const char* key, double value) {
  tensors_.emplace(prefix_ + key, scalar_of(value, at::kDouble));
}

void StateWriter::flats(const char* key, const std::deque<at::Tensor>& values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensor(std::string(key) + "." + std::to_string(i), values[i]);
  }
}

at::Tensor StateReader::take(const std::string& key) {
  const auto found = tensors_.find(prefix_ + key);
  if (found == tensors_.end()) return {};
  used_.insert(found->first);
  const at::Tensor value = at::detach(found->second);
  return value.to(parameter_.device(), value.scalar_type(), /*non_blocking=*/false,
                  /*copy=*/kind_ == StateTensors::Copied);
}

at::Tensor StateReader::take(const std::string& key, at::IntArrayRef shape) {
  at::Tensor value = take(key);
  TORCH_CHECK(!value.defined() ||
                  (value.sizes() == shape && value.scalar_type() == parameter_.scalar_type()),
              "the state of the optimizer: '", prefix_, key, "' is ", value.scalar_type(),
              " of shape ", value.sizes(), "; for its parameter it must be ",
              parameter_.scalar_type(), " of shape ", shape);
  return value;
}

void StateReader::optional(const char* key, at::Tensor& value) {
  value = take(key, parameter_.sizes());
}

void StateReader::shaped(const char* key, at::Tensor& value) {
  optional(key, value);
  TORCH_CHECK(value.defined(), "the state of the optimizer: there is no '", prefix_, key, "'");
}

void StateReader::floating(const char* key, at::Tensor& value, bool is_required) {
  value = take(key);
  TORCH_CHECK(value.defined() || !is_required, "the state of the optimizer: there is no '", prefix_,
              key, "'");
  TORCH_CHECK(!value.defined() ||
                  (value.sizes() == parameter_.sizes() && at::isFloatingType(value.scalar_type())),
              "the state of the optimizer: '", prefix_, key, "' is ", value.scalar_type(),
              " of shape ", value.sizes(),
              "; for its parameter it must be of real numbers and of shape ", parameter_.sizes());
}

void StateReader::flat(const char* key, at::Tensor& value) {
  value = take(key, {all_elements_});
}

void StateReader::scalar(const char* key, at::Tensor& value) {
  value = take(key, {});
}

double StateReader::number_at(const char* key) {
  const at::Tensor value = take(key);
  TORCH_CHECK(value.defined(), "the state of the optimizer: there is no '", prefix_, key, "'");
  TORCH_CHECK(value.numel() == 1 && !value.is_complex(), "the state of the optimizer: '", prefix_,
              key, "' must be one number, and is a tensor of shape ", value.sizes());
  return value.item<double>();
}

void StateReader::integer(const char* key, std::int64_t& value) {
  const double number = number_at(key);
  TORCH_CHECK(std::floor(number) == number && std::abs(number) <= kExactIntegers,
              "the state of the optimizer: '", prefix_, key, "' is ", number,
              "; expected a whole number");
  value = static_cast<std::int64_t>(number);
}

void StateReader::number(const char* key, double& value) {
  value = number_at(key);
}

void StateReader::list(const char* key, at::IntArrayRef shape, std::deque<at::Tensor>& values) {
  values.clear();
  for (;;) {
    at::Tensor next = take(std::string(key) + "." + std::to_string(values.size()), shape);
    if (!next.defined()) return;
    values.push_back(std::move(next));
  }
}

void StateReader::scratch(const char* key) {
  const std::string start = prefix_ + key;
  for (auto one = tensors_.lower_bound(start);
       one != tensors_.end() && one->first.starts_with(start); ++one) {
    used_.insert(one->first);
  }
}

}  // namespace lockstep::training
