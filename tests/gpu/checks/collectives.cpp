// SPDX-License-Identifier: BSD-3-Clause
// Steps 1 to 3: every collective, with whole numbers. All sums are below what each dtype counts
// exactly, so a piece that goes astray is a wrong number, and nothing is a matter of rounding.
#include <functional>
#include <vector>

#include "checks.h"

namespace gpu {
namespace {

using lockstep::ProcessGroup;
using lockstep::ReduceOp;

constexpr at::ScalarType kDtypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16,
                                      at::kInt,   at::kLong,   at::kByte};

at::Tensor numbers(int rank, std::int64_t length) {
  return (torch::arange(length, torch::kLong) * 7 + rank * 3).remainder(11);
}

class Collectives {
 public:
  Collectives(ProcessGroup& group, const Settings& settings, std::int64_t length)
      : group_(group), device_(settings.device()), length_(length) {}

  void run(at::ScalarType dtype) {
    options_ = at::TensorOptions(dtype).device(device_);
    reductions();
    movements();
    messages();
  }

 private:
  [[nodiscard]] at::Tensor of(int rank) const { return numbers(rank, length_).to(options_); }
  [[nodiscard]] at::Tensor own() const { return of(group_.rank()); }
  [[nodiscard]] at::Tensor over_ranks(
      const std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>& add) const {
    at::Tensor all = numbers(0, length_);
    for (int rank = 1; rank < group_.size(); ++rank) all = add(all, numbers(rank, length_));
    return all.to(options_);
  }
  [[nodiscard]] std::vector<at::Tensor> empty_rows() const {
    std::vector<at::Tensor> rows;
    for (int rank = 0; rank < group_.size(); ++rank) {
      rows.push_back(torch::zeros({length_}, options_));
    }
    return rows;
  }
  void expect(const at::Tensor& found, const at::Tensor& expected, const char* call) const {
    if (torch::equal(found, expected)) return;
    const auto wrong = (found != expected).sum().item<std::int64_t>();
    throw CheckFailed(std::string(call) + " of " + c10::toString(options_.dtype().toScalarType()) +
                      ": " + std::to_string(wrong) + " of " + std::to_string(found.numel()) +
                      " values are wrong on rank " + std::to_string(group_.rank()));
  }

  void reductions() {
    const auto sum = over_ranks([](const auto& a, const auto& b) { return a + b; });
    auto tensor = own();
    group_.all_reduce(tensor).wait();
    expect(tensor, sum, "all_reduce Sum");
    tensor = own();
    group_.all_reduce(tensor, ReduceOp::Max).wait();
    expect(tensor, over_ranks([](const auto& a, const auto& b) { return torch::maximum(a, b); }),
           "all_reduce Max");
    tensor = own();
    group_.all_reduce(tensor, ReduceOp::Min).wait();
    expect(tensor, over_ranks([](const auto& a, const auto& b) { return torch::minimum(a, b); }),
           "all_reduce Min");
    const int last = group_.size() - 1;
    tensor = own();
    group_.reduce(tensor, last).wait();
    expect(tensor, group_.rank() == last ? sum : own(), "reduce");
    const auto rows = torch::stack(std::vector<at::Tensor>(empty_rows().size(), own()));
    const auto part = torch::empty({length_}, options_);
    group_.reduce_scatter(part, rows).wait();
    expect(part, sum, "reduce_scatter");
    const auto memory = group_.allocate({length_}, options_);
    memory.copy_(own());
    group_.all_reduce(memory).wait();
    expect(memory, sum, "all_reduce in the group's memory");
  }

  void movements() {
    const int size = group_.size();
    const int last = size - 1;
    auto tensor = own();
    group_.broadcast(tensor, last).wait();
    expect(tensor, of(last), "broadcast");
    auto rows = torch::zeros({size, length_}, options_);
    group_.all_gather(rows, own()).wait();
    for (int rank = 0; rank < size; ++rank) expect(rows[rank], of(rank), "all_gather");
    const auto sent = own().expand({size, length_}).contiguous();
    rows.zero_();
    group_.all_to_all(rows, sent).wait();
    for (int rank = 0; rank < size; ++rank) expect(rows[rank], of(rank), "all_to_all");
    auto list = group_.rank() == last ? empty_rows() : std::vector<at::Tensor>();
    group_.gather(list, own(), last).wait();
    for (std::size_t rank = 0; rank < list.size(); ++rank) {
      expect(list[rank], of(static_cast<int>(rank)), "gather");
    }
    std::vector<at::Tensor> parts;
    for (int rank = 0; group_.rank() == 0 && rank < size; ++rank) parts.push_back(of(rank));
    tensor = torch::zeros({length_}, options_);
    group_.scatter(tensor, parts, 0).wait();
    expect(tensor, own(), "scatter");
  }

  void messages() {
    const int size = group_.size();
    if (size == 1) return;
    const int previous = (group_.rank() + size - 1) % size;
    const auto sent = own();
    const auto received = torch::zeros({length_}, options_);
    group_
        .coalesced([&] {
          group_.send(sent, (group_.rank() + 1) % size);
          group_.recv(received, previous);
        })
        .wait();
    expect(received, of(previous), "send and recv");
  }

  ProcessGroup& group_;
  c10::Device device_;
  std::int64_t length_;
  at::TensorOptions options_;
};

void all_collectives(ProcessGroup& group, const Settings& settings) {
  for (const std::int64_t length :
       {std::int64_t{1}, std::int64_t{1000}, settings.size(1 << 20, 5000)}) {
    for (const auto dtype : kDtypes) Collectives(group, settings, length).run(dtype);
  }
}

/// One group, from its making to its end. `is_left`: without `close`, so that it is aborted.
void one_life(const Settings& settings, bool is_left) {
  auto group = make_group(settings);
  const auto tensor = group->allocate({1 << 18}, at::TensorOptions(settings.device()));
  tensor.fill_(3);
  group->all_reduce(tensor).wait();
  require(tensor[7].item<float>() == 3, "all_reduce of one rank changes the values");
  const auto part = group->split(0);
  part->all_reduce(tensor).wait();
  part->close();
  if (!is_left) group->close();
}

}  // namespace

void one_rank(const Settings& settings) {
  auto group = make_group(settings);
  require(group->size() == 1, "this check is for one rank");
  all_collectives(*group, settings);
  group->close();
  group.reset();
  const auto lives = settings.size(6, 3);
  DeviceMemory before;
  for (std::int64_t life = 0; life < lives; ++life) {
    one_life(settings, life % 2 == 1);
    synchronize(settings);
    if (life == 1) before = memory_of(settings);  // libraries have what they keep
  }
  const DeviceMemory after = memory_of(settings);
  figure("leaked_mib", static_cast<double>(before.free - after.free) / (1 << 20));
  require(before.free - after.free < (std::int64_t{8} << 20), "groups leave memory on the device");
}

void collectives(const Settings& settings) {
  const auto group = make_group(settings);
  const auto begin = std::chrono::steady_clock::now();
  const auto tensor = numbers(group->rank(), 1000).to(settings.device(), at::kFloat);
  group->all_reduce(tensor).wait();
  synchronize(settings);
  figure("first_all_reduce_s", seconds_since(begin));
  all_collectives(*group, settings);
  const auto repeated = std::chrono::steady_clock::now();
  constexpr int kTimes = 20;
  for (int i = 0; i < kTimes; ++i) group->all_reduce(tensor, ReduceOp::Max).wait();
  synchronize(settings);
  figure("all_reduce_ms", seconds_since(repeated) * 1e3 / kTimes);
  figure("backend", std::string(to_string(group->backend())));
  group->close();
}

}  // namespace gpu
