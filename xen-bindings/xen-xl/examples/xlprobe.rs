//! Tries this crate by hand in a dom0.
//!
//! ```text
//! xlprobe host | list | config NAME | shutdown NAME [SECONDS] | wait NAME [SECONDS]
//!         | destroy NAME | create FILE NAME | unpause NAME
//! ```
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use xen_xl::{Domain, Xl};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let begin = Instant::now();
    let result = run(&words);
    println!("after {:.1} s", begin.elapsed().as_secs_f32());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Box<dyn Error>> {
    let xl = Xl::open()?;
    match *words {
        ["host"] => println!("{:#?}", xl.host()?),
        ["list"] => {
            for domain in xl.list()? {
                println!(
                    "{} {} {} {:?}",
                    domain.domid, domain.uuid, domain.name, domain.state
                );
            }
        }
        ["config", name] => println!("{:#?}", xl.config(&find(&xl, name)?)?),
        ["shutdown", name, ref rest @ ..] => {
            let domain = find(&xl, name)?;
            println!("{:?}", xl.shutdown(&domain, seconds(rest)?)?);
        }
        ["wait", name, ref rest @ ..] => {
            let domain = find(&xl, name)?;
            println!("{:?}", xl.wait_end(&domain, seconds(rest)?)?);
        }
        ["stop", name, ref rest @ ..] => {
            let domain = find(&xl, name)?;
            println!("{:?}", xl.shutdown(&domain, seconds(rest)?)?);
            println!("{:?}", xl.wait_end(&domain, seconds(rest)?)?);
            println!("now {:?}", xl.refresh(&domain)?);
        }
        ["destroy", name] => {
            let domain = find(&xl, name)?;
            xl.destroy(&domain)?;
            xl.destroy(&domain)?;
            println!("now {:?}", xl.refresh(&domain)?);
        }
        ["create", file, name] => {
            let domain = xl.create_paused(Path::new(file), name, Duration::from_secs(300))?;
            println!("{domain:?}");
        }
        ["unpause", name] => xl.unpause(&find(&xl, name)?)?,
        _ => return Err("see the head of xlprobe.rs".into()),
    }
    Ok(())
}

fn find(xl: &Xl, name: &str) -> Result<Domain, Box<dyn Error>> {
    Ok(xl
        .find(name)?
        .ok_or_else(|| format!("no domain `{name}`"))?)
}

fn seconds(words: &[&str]) -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::from_secs(match words {
        [] => 60,
        [seconds, ..] => seconds.parse()?,
    }))
}
