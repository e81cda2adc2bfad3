// SPDX-License-Identifier: Apache-2.0
#pragma once

// Everything an actor's code needs: Task, Address, ActorContext, ask, Executor. Programs that choose an executor
// include runtime/thread_executor.hpp or runtime/sim_executor.hpp beside it.

#include "runtime/actor_context.hpp"
#include "runtime/address.hpp"
#include "runtime/ask.hpp"
#include "runtime/executor.hpp"
#include "runtime/result.hpp"
#include "runtime/task.hpp"
#include "runtime/time.hpp"
