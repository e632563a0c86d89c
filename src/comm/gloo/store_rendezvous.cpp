// SPDX-License-Identifier: BSD-3-Clause
#include "comm/gloo/store_rendezvous.h"

#include <lockstep/core/error.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "native/posix/loopback_listener.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

// c10d refuses a time-out of zero.
constexpr milliseconds kShortest{50};

std::string text_at(c10d::Store& store, const std::string& key) {
  return text_of_bytes(store.get(key));
}

std::vector<std::string> keys_of(const char* name, int size) {
  std::vector<std::string> keys;
  for (int rank = 0; rank < size; ++rank) {
    keys.push_back(std::string(name) + "/" + std::to_string(rank));
  }
  return keys;
}

std::string new_nonce() {
  std::random_device random;
  char text[33];
  std::snprintf(text, sizeof(text), "%08x%08x", random(), random());
  return text;
}

milliseconds remaining(const Deadline& deadline) {
  return std::max(kShortest, std::chrono::duration_cast<milliseconds>(deadline.remaining()));
}

/// Throws: `LaunchError` naming the ranks that have not written their key; what c10d throws where
/// the store is gone.
void check_for_missing(c10d::Store& store, const std::vector<std::string>& keys,
                       const Deadline& deadline) {
  std::string missing;
  for (std::size_t rank = 0; rank < keys.size(); ++rank) {
    if (!store.check({keys[rank]})) missing += (missing.empty() ? "" : ", ") + std::to_string(rank);
  }
  if (missing.empty()) return;
  throw LaunchError("rank(s) " + missing + " of " + std::to_string(keys.size()) +
                    " did not come to the rendezvous of backend Gloo within " +
                    std::to_string(deadline.elapsed().count()) + " s");
}

void wait_for_ranks(c10d::Store& store, const std::vector<std::string>& keys,
                    const Deadline& deadline) {
  try {
    store.wait(keys, remaining(deadline));
  } catch (const std::exception&) {
    check_for_missing(store, keys, deadline);
    throw;
  }
}

/// Rank 0: makes up a name and sends it to each rank that has sent a join request.
std::string answer_requests(c10d::Store& store, const std::vector<std::string>& requests) {
  const std::string name = new_nonce();
  for (std::size_t rank = 0; rank < requests.size(); ++rank) {
    const std::string nonce = text_at(store, requests[rank]);
    store.deleteKey(requests[rank]);  // a later group has requests of its own
    if (rank != 0) store.set("answer/" + nonce, bytes_of_text(name));
  }
  return name;
}

/// The other ranks: wait for the name.
std::string await_name(c10d::Store& store, const std::string& nonce,
                       const std::vector<std::string>& requests, int rank,
                       const Deadline& deadline) {
  const std::string answer = "answer/" + nonce;
  try {
    store.wait({answer}, remaining(deadline));
  } catch (const std::exception&) {
    // While this rank's request is in the store, rank 0 has answered none.
    const std::string& own = requests[static_cast<std::size_t>(rank)];
    if (store.check({own})) check_for_missing(store, requests, deadline);
    store.deleteKey(own);  // no rank is to wait for this one now
    throw;
  }
  std::string name = text_at(store, answer);
  store.deleteKey(answer);
  return name;
}

}  // namespace

std::string message_of(const std::exception& error) {
  const auto* torch_error = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch_error ? torch_error->what_without_backtrace() : error.what();
  return text.substr(0, text.find("\nException raised from"));
}

GlooStore gloo_store_part(const std::string& prefix, const GlooStore& store) {
  return c10::make_intrusive<c10d::PrefixStore>(prefix, store);
}

GlooStore open_gloo_store(const LaunchEnvironment& environment, const GlooRendezvous& rendezvous,
                          milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = rendezvous.port;
  options.isServer = environment.rank == 0 && !rendezvous.has_server;
  options.waitWorkers = false;  // `agree_on_gloo_group` waits, and names the ranks that are missing
  options.timeout = timeout;
  options.multiTenant = true;  // one group after another, and ranks as threads
  if (options.isServer) {
    // By itself, c10d listens on every interface. An error of its own follows where this fails.
    auto listener = native::bind_loopback(rendezvous.host, rendezvous.port);
    if (listener.is_open()) options.masterListenFd = listener.release();
  }
  try {
    return c10::make_intrusive<c10d::TCPStore>(rendezvous.host, options);
  } catch (const std::exception& error) {
    throw LaunchError("backend Gloo: rank " + std::to_string(environment.rank) + " could not " +
                      (options.isServer ? "serve" : "reach the rendezvous") + " at " +
                      rendezvous.host + ":" + std::to_string(rendezvous.port) + ": " +
                      message_of(error));
  }
}

GlooStore agree_on_gloo_group(const GlooStore& store, const LaunchEnvironment& environment,
                              const Deadline& deadline) {
  const auto job = gloo_store_part(environment.job_id, store);
  const auto requests = keys_of("join", environment.world_size);
  const std::string nonce = new_nonce();
  job->set(requests[static_cast<std::size_t>(environment.rank)], bytes_of_text(nonce));
  if (environment.rank != 0) {
    return gloo_store_part(await_name(*job, nonce, requests, environment.rank, deadline), job);
  }
  wait_for_ranks(*job, requests, deadline);
  return gloo_store_part(answer_requests(*job, requests), job);
}

void rendezvous_in_gloo_store(c10d::Store& store, int rank, int size, milliseconds timeout) {
  const auto keys = keys_of("here", size);
  store.set(keys[static_cast<std::size_t>(rank)], std::vector<std::uint8_t>{1});
  wait_for_ranks(store, keys, Deadline::after(timeout));
}

}  // namespace lockstep
