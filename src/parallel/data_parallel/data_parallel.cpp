// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/core/grad_mode.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/data_parallel.h>

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

namespace lockstep {
namespace {

/// Leaves `join` after one round.
struct RoundIsOver {};

bool has_same_form(const at::Tensor& a, const at::Tensor& b) {
  return a.layout() == at::kStrided && b.layout() == at::kStrided && a.sizes() == b.sizes() &&
         a.strides() == b.strides() && a.scalar_type() == b.scalar_type();
}

bool is_same_memory(const at::Tensor& a, const at::Tensor& b) {
  return has_same_form(a, b) && a.device() == b.device() &&
         a.const_data_ptr() == b.const_data_ptr();
}

void check_same_names(const torch::OrderedDict<std::string, at::Tensor>& own,
                      const torch::OrderedDict<std::string, at::Tensor>& first, std::size_t rank,
                      const char* kind) {
  const auto names = own.keys();
  TORCH_CHECK(names == first.keys(), "DataParallel: the replica of rank ", rank, " has ",
              own.size(), " ", kind, ", the module has ", first.size(),
              "; they must have the same names in the same order");
}

/// Two threads would write to what they share.
void check_nothing_is_shared(const std::vector<std::shared_ptr<torch::nn::Module>>& replicas) {
  std::unordered_map<const void*, std::size_t> owners;
  const auto note = [&](const void* part, std::size_t rank, const char* kind,
                        const std::string& name) {
    const auto [owner, is_new] = owners.emplace(part, rank);
    TORCH_CHECK(is_new || owner->second == rank, "DataParallel: the replicas of ranks ",
                owner->second, " and ", rank, " share the ", kind, " '", name,
                "'; the function that makes a replica must make all parts anew");
  };
  for (std::size_t rank = 0; rank < replicas.size(); ++rank) {
    const auto& replica = replicas[rank];
    for (const auto& item : replica->named_parameters()) {
      if (!item.value().defined()) continue;
      note(item.value().unsafeGetTensorImpl(), rank, "parameter", item.key());
    }
    for (const auto& item : replica->named_buffers()) {
      if (!item.value().defined()) continue;
      note(item.value().unsafeGetTensorImpl(), rank, "buffer", item.key());
    }
    for (const auto& item : replica->named_modules()) {
      note(item.value().get(), rank, "module", item.key());
    }
  }
}

void check_no_sync_batch_norm(const torch::nn::Module& net) {
  for (const auto& item : net.named_modules()) {
    TORCH_CHECK(item.value()->name() != "lockstep::nn::SyncBatchNormImpl", "DataParallel: module '",
                item.key(),
                "' is a SyncBatchNorm, and all replicas would have its one group; use a BatchNorm "
                "of LibTorch, or DistributedDataParallel in LocalRanks::run");
  }
}

bool are_same(const std::vector<at::Tensor>& some, const std::vector<at::Tensor>& others) {
  return std::equal(some.begin(), some.end(), others.begin(), others.end(),
                    [](const at::Tensor& a, const at::Tensor& b) { return a.is_same(b); });
}

/// A replica on the device of the first one shares its memory: then there is nothing to copy when
/// an optimizer has stepped.
void follow_parameter(const at::Tensor& source, at::Tensor& replica, c10::Device device) {
  if (!source.defined()) return;
  if (source.device() == device) {
    if (!is_same_memory(source, replica)) replica.set_data(source.variable_data());
  } else if (has_same_form(source, replica)) {
    replica.copy_(source, /*non_blocking=*/true);
  } else {
    replica.set_data(source.variable_data().to(device));
  }
  if (replica.requires_grad() != source.requires_grad()) {
    replica.set_requires_grad(source.requires_grad());
  }
}

void follow_gradient(const at::Tensor& source, at::Tensor& replica) {
  if (!source.grad().defined()) {
    replica.mutable_grad().reset();
  } else if (replica.grad().defined() && has_same_form(source.grad(), replica.grad())) {
    replica.mutable_grad().copy_(source.grad());
  } else {
    replica.mutable_grad() =
        source.grad().to(replica.device(), source.grad().scalar_type(), /*non_blocking=*/false,
                         /*copy=*/true);
  }
}

}  // namespace

struct DataParallelBase::Stamp {
  // They are held, so that no other tensor, and no other memory, has their addresses meanwhile.
  at::Tensor tensor;
  c10::Storage storage;  // the program may give a buffer other memory
  const void* data;
  std::int64_t version;
  bool operator==(const Stamp& other) const {
    return tensor.is_same(other.tensor) &&
           storage.unsafeGetStorageImpl() == other.storage.unsafeGetStorageImpl() &&
           data == other.data && version == other.version;
  }
};

DataParallelBase::DataParallelBase(LocalRanks& ranks, const DistributedDataParallelOptions& options)
    : ranks_(&ranks), options_(options), losses_(static_cast<std::size_t>(ranks.size())) {
  TORCH_CHECK(!options.static_graph(),
              "DataParallel: static_graph is refused, because a batch may have fewer samples than "
              "there are ranks; leave that option out");
  options_.averaging(GradientAveraging::Samples);
  options_.broadcast_at_start(false);  // replicas are equal, and may share memory
}

DataParallelBase::~DataParallelBase() = default;

void DataParallelBase::check_module(const std::shared_ptr<torch::nn::Module>& module, int rank) {
  TORCH_CHECK(module != nullptr || rank != 0, "DataParallel: the module is empty");
  TORCH_CHECK(module != nullptr, "DataParallel: the function that makes a replica gave an empty ",
              "module for rank ", rank, "; each rank needs one of its own");
}

void DataParallelBase::set_replicas(std::vector<std::shared_ptr<torch::nn::Module>> replicas) {
  const auto& net = replicas.front();
  check_no_sync_batch_norm(*net);
  for (const auto& item : net->named_parameters()) {
    TORCH_CHECK(!item.value().defined() || item.value().device() == device_of(0),
                "DataParallel: parameter '", item.key(), "' is on ", item.value().device(),
                ", the first rank's device is ", device_of(0), "; call to(device) of the module");
  }
  for (std::size_t rank = 1; rank < replicas.size(); ++rank) {
    TORCH_CHECK(replicas[rank] != net, "DataParallel: the replica of rank ", rank,
                " is the module itself; each rank needs one of its own");
    check_same_names(replicas[rank]->named_parameters(), net->named_parameters(), rank,
                     "parameters");
    check_same_names(replicas[rank]->named_buffers(), net->named_buffers(), rank, "buffers");
  }
  check_nothing_is_shared(replicas);
  replicas_ = std::move(replicas);
  known_modules_ = replicas_.front()->modules();
  known_parameters_ = replicas_.front()->parameters();
  follow_net(/*shares_buffers=*/true);
}

detail::Cut DataParallelBase::cut(std::optional<std::int64_t> samples, const char* call) const {
  TORCH_CHECK(samples, "DataParallel::", call,
              ": the input has no tensor with a first dimension, along which a batch is cut");
  TORCH_CHECK(*samples > 0, "DataParallel::", call, ": the batch is empty");
  const std::int64_t ranks = ranks_->size();
  const std::int64_t length = (*samples + ranks - 1) / ranks;
  detail::Cut cut{*samples, {}};
  for (std::int64_t begin = 0; begin < *samples; begin += length) {
    cut.lengths.push_back(std::min(length, *samples - begin));
  }
  return cut;
}

void DataParallelBase::follow_net(bool shares_buffers) {
  if (replicas_.size() == 1) return;
  const at::NoGradGuard no_grad;
  const auto modules = replicas_.front()->modules();
  const auto sources = replicas_.front()->parameters();
  TORCH_CHECK(sources.size() != known_parameters_.size() ||
                  modules.size() != known_modules_.size() ||
                  (are_same(sources, known_parameters_) && modules == known_modules_),
              "DataParallel: another parameter or module stands where one of the module was when "
              "its replicas were made; make a new DataParallel after such a change");
  for (std::size_t rank = 1; rank < replicas_.size(); ++rank) {
    const auto own_modules = replicas_[rank]->modules();
    auto own = replicas_[rank]->parameters();
    TORCH_CHECK(own.size() == sources.size() && own_modules.size() == modules.size(),
                "DataParallel: the module has ", sources.size(), " parameters in ", modules.size(),
                " modules now, and had ", own.size(), " in ", own_modules.size(),
                " when its replicas were made; make a new DataParallel after such a change");
    // A module comes before those in it, whose own modes come last.
    for (std::size_t i = 0; i < modules.size(); ++i) {
      const bool is_training = modules[i]->is_training();
      if (own_modules[i]->is_training() != is_training) own_modules[i]->train(is_training);
    }
    for (std::size_t i = 0; i < sources.size(); ++i) {
      follow_parameter(sources[i], own[i], device_of(static_cast<int>(rank)));
    }
  }
  if (shares_buffers || known_buffers_ != stamps()) copy_buffers();
}

void DataParallelBase::follow_gradients() {
  if (replicas_.size() == 1) return;
  const at::NoGradGuard no_grad;
  const auto sources = replicas_.front()->parameters();
  for (std::size_t rank = 1; rank < replicas_.size(); ++rank) {
    auto own = replicas_[rank]->parameters();
    for (std::size_t i = 0; i < sources.size(); ++i) follow_gradient(sources[i], own[i]);
  }
}

void DataParallelBase::note_buffers() {
  if (replicas_.size() > 1) known_buffers_ = stamps();
}

std::vector<DataParallelBase::Stamp> DataParallelBase::stamps() const {
  std::vector<Stamp> stamps;
  for (const at::Tensor& buffer : replicas_.front()->buffers()) {
    if (!buffer.defined()) continue;
    const bool has_storage = buffer.has_storage();
    stamps.push_back({buffer, has_storage ? buffer.storage() : c10::Storage(),
                      has_storage ? buffer.const_data_ptr() : nullptr,
                      buffer.is_inference() ? 0 : static_cast<std::int64_t>(buffer._version())});
  }
  return stamps;
}

void DataParallelBase::copy_buffers() {
  const at::NoGradGuard no_grad;
  const auto sources = replicas_.front()->buffers();
  for (std::size_t rank = 1; rank < replicas_.size(); ++rank) {
    auto own = replicas_[rank]->buffers();
    TORCH_CHECK(own.size() == sources.size(), "DataParallel: the module has ", sources.size(),
                " buffers now, and had ", own.size(),
                " when its replicas were made; make a new DataParallel after such a change");
    for (std::size_t i = 0; i < sources.size(); ++i) {
      if (!sources[i].defined()) continue;
      if (has_same_form(sources[i], own[i])) {
        own[i].copy_(sources[i]);
      } else {
        own[i].set_data(sources[i].variable_data().to(device_of(static_cast<int>(rank)),
                                                      sources[i].scalar_type(),
                                                      /*non_blocking=*/false, /*copy=*/true));
      }
    }
  }
  known_buffers_ = stamps();
}

void DataParallelBase::sit_out(DistributedDataParallelBase& model) {
  // Joining for good would copy parameters and buffers at the end.
  try {
    model.join([] { throw RoundIsOver(); });
  } catch (const RoundIsOver&) {  // the others have had their backward
  }
}

void DataParallelBase::backward(const at::Tensor& loss, int rank) {
  TORCH_CHECK(
      loss.defined() && loss.numel() == 1, "DataParallel::step: the loss function gave ",
      loss.defined() ? std::to_string(loss.numel()) : std::string("no tensor instead of one"),
      loss.defined() ? " elements; it must give the mean over its samples, one element" : "");
  losses_[static_cast<std::size_t>(rank)] = loss.reshape({}).detach().to(device_of(0));
  loss.backward();
}

at::Tensor DataParallelBase::mean_loss(const detail::Cut& cut) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> losses(losses_.size());
  losses.swap(losses_);
  if (cut.lengths.size() == 1) return losses.front();
  // A sum of losses times samples may be no half number any more.
  const auto weight = [&](int rank) {
    return static_cast<double>(cut.length_of(rank)) / static_cast<double>(cut.samples);
  };
  at::Tensor mean = losses.front() * weight(0);
  for (int rank = 1; cut.has_part(rank); ++rank) {
    mean += losses[static_cast<std::size_t>(rank)] * weight(rank);
  }
  return mean;
}

void DataParallelBase::with_advice(const std::function<void()>& clone) {
  try {
    clone();
  } catch (c10::Error& error) {
    error.add_context(
        "DataParallel: a module without clone() needs a function that makes a replica, as the "
        "third "
        "argument");
    throw;
  }
}

}  // namespace lockstep
